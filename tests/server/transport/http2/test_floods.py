"""Frames without end: they end with ENHANCE_YOUR_CALM, or are paid for by who sends them."""

import threading
from collections.abc import Callable, Iterator

import pytest
from support.peers.bystander import nobody_notices
from support.peers.case import Code
from support.peers.frames import (
    ACK,
    BODY,
    CALL,
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PRIORITY,
    SETTINGS,
    UNKNOWN,
    call,
    data,
    fields,
    frame,
    goaway,
    grpc_message,
    headers,
    literal,
    padded,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from support.peers.peer import Peer
from support.process import ServerProcess


def ids(first: int = 1) -> Iterator[int]:
    return iter(range(first, 2**31, 2))


def settings_of_a_full_frame() -> bytes:
    return settings([(INITIAL_WINDOW_SIZE, size) for size in range(2700)])


BOMB = literal([("a", "b" * 4000)], first=0x40) + b"\xbe" * 16_000
"""20 kB that decode to 64 MB."""

FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "calls that are cancelled at once": lambda: (headers(n) + rst_stream(n) for n in ids()),
    "whole calls that are cancelled at once": lambda: (call(n) + rst_stream(n) for n in ids()),
    "calls that the server is made to reset": lambda: (
        headers(n) + window_update(n, 0) for n in ids()
    ),
    "calls that are malformed": lambda: (headers(n, b"\x83") for n in ids()),
    "calls with data behind their end": lambda: (call(n) + data(n) for n in ids()),
    "streams above the limit": lambda: (headers(n) for n in ids()),
    "empty CONTINUATIONs": lambda: flood(frame(HEADERS, 0, 1), frame(CONTINUATION, 0, 1)),
    "CONTINUATIONs of a byte": lambda: flood(
        frame(HEADERS, 0, 1), frame(CONTINUATION, 0, 1, CALL[:1])
    ),
    "CONTINUATIONs of the largest size": lambda: flood(
        frame(HEADERS, 0, 1), frame(CONTINUATION, 0, 1, bytes(2**14))
    ),
    "a small block that decodes to megabytes": lambda: iter(
        [headers(1, BOMB[:8000], 0), frame(CONTINUATION, END_HEADERS, 1, BOMB[8000:])]
    ),
    "a field section of 100 kB": lambda: iter(
        [headers(1, literal([("a", "b" * 16_000)]), 0)]
        + [frame(CONTINUATION, 0, 1, literal([("a", "b" * 16_000)]))] * 6
    ),
    "SETTINGS": lambda: flood(settings()),
    "SETTINGS that move every window": lambda: flood(
        b"".join(headers(n) for n in range(1, 2000, 2)),
        settings({INITIAL_WINDOW_SIZE: 1}) + settings({INITIAL_WINDOW_SIZE: 2}),
    ),
    "SETTINGS of 16 kB": lambda: flood(settings_of_a_full_frame()),
    "SETTINGS' ACKs": lambda: flood(frame(SETTINGS, ACK, 0)),
    "PINGs": lambda: flood(ping()),
    "PINGs' ACKs": lambda: flood(ping(flags=ACK)),
    "empty DATA": lambda: flood(headers(1), data(1, b"", 0)),
    "DATA of padding alone": lambda: flood(headers(1), data(1, padded(b"", 200), PADDED)),
    "PRIORITY": lambda: flood(frame(PRIORITY, 0, 1, priority())),
    "unknown frames": lambda: flood(frame(UNKNOWN, 0, 1)),
    "RST_STREAM of closed streams": lambda: flood(headers(1) + rst_stream(1), rst_stream(1)),
    "GOAWAY": lambda: flood(headers(1), goaway()),
}


def flood(*parts: bytes) -> Iterator[bytes]:
    """All parts, and the last one for ever."""
    yield from parts
    while True:
        yield parts[-1]


def rush(peer: Peer, parts: Iterator[bytes], most: int = 2**25) -> int:
    """Send parts until the server hangs up, or until so many bytes; return how many were sent."""
    sent = 0
    joined = bytearray()
    for part in parts:
        joined += part
        if len(joined) >= 2**16:
            peer.send(bytes(joined))
            sent += len(joined)
            joined.clear()
            if peer.closed or sent > most:
                return sent
    peer.send(bytes(joined))
    return sent + len(joined)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_with_enhance_your_calm(process: ServerProcess, name: str) -> None:
    with nobody_notices(process), Peer(process.port) as peer:
        sent = rush(peer, FLOODS[name]())
        peer.end()
    assert sent < 2**25
    # Hung up on while it talked, it may have lost what it was told.
    if peer.goaway is not None:
        assert peer.goaway.error_code == Code.ENHANCE_YOUR_CALM, peer.goaway


ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "WINDOW_UPDATE": lambda: flood(headers(1), window_update(0, 1) + window_update(1, 1)),
    "DATA of a byte": lambda: (
        flood(headers(1), data(1, grpc_message(bytes(2**25))[:5], 0))
        and iter([headers(1), data(1, b"\0\x02\0\0\0", 0)] + [data(1, b"x", 0)] * 200_000)
    ),
    "fields that are new every time": lambda: iter(
        call(n, CALL + literal([("a", str(n) * 300)], first=0x40)) for n in range(1, 9000, 2)
    ),
    "blocks that are new every time": lambda: iter(
        call(n, CALL + literal([("a", str(n) * 300)])) for n in range(1, 9000, 2)
    ),
    "names that no call asks for twice": lambda: iter(
        call(n, literal(fields(path=f"/{n}" * 500))) for n in range(1, 9000, 2)
    ),
    "half of a call, again and again": lambda: iter(
        headers(n) + data(n, BODY[:9], 0) for n in range(1, 2000, 2)
    ),
}
"""What a client may do without end, as far as HTTP/2 goes."""


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_allowed_without_end_is_paid_for_by_who_does_it(
    process: ServerProcess, name: str
) -> None:
    with nobody_notices(process), Peer(process.port) as peer:
        reader = threading.Thread(target=drain, args=(peer,))
        reader.start()
        rush(peer, ENDLESS[name](), most=2**22)
        peer.socket.shutdown(1)
        reader.join()


def drain(peer: Peer) -> None:
    while not peer.closed:
        try:
            peer.closed = not peer.socket.recv(2**20)
        except ConnectionResetError:
            peer.closed = True
