"""The core of HTTP/2 without a socket: what a peer sends, and what becomes of it."""

from collections.abc import Callable
from struct import pack

import pytest
from support.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Frame,
    block,
    frame,
    hello,
    read_frames,
    request,
)

from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.limits import ConnectionLimits
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.http2.stream import Stream

FORM = AnswerForm(b"\x88", b"\x00\x01t\x01v")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """A client's end, without a socket: what it sends and what comes back."""

    def __init__(self, greeting: bytes | None = None, **limits: object) -> None:
        self.clock = Clock()
        self.connection = Connection(ConnectionLimits(**limits), self.clock)  # type: ignore[arg-type]
        if greeting is None:
            self.send(hello())
            self.frames()
        else:
            self.send(greeting)

    def send(self, *frames: bytes) -> list[Stream]:
        return self.connection.receive(b"".join(frames))

    def frames(self) -> list[Frame]:
        parts = []
        while out := self.connection.to_send():
            parts += out
        return read_frames(b"".join(parts))

    @property
    def failure(self) -> ErrorCode | None:
        failure = self.connection.failure
        return None if failure is None else failure.code


@pytest.fixture
def peer() -> Peer:
    return Peer()


def code_of(frames: list[Frame], kind: int) -> ErrorCode:
    (found,) = (each for each in frames if each.kind == kind)
    return ErrorCode(found.error)


def test_a_greeting_is_answered_by_settings_and_an_acknowledgement() -> None:
    peer = Peer(b"")
    assert [each.kind for each in peer.frames()] == [SETTINGS, WINDOW_UPDATE]
    peer.send(hello())
    (ack,) = peer.frames()
    assert (ack.kind, ack.flags, ack.payload) == (SETTINGS, ACK, b"")


def test_a_request_is_one_stream_with_news(peer: Peer) -> None:
    (stream,) = peer.send(request(1, b"body"))
    assert stream.id == 1
    assert b"".join(stream.received) == b"body"
    assert stream.ended
    assert stream.request.get(b":method") == b"POST"


def test_bytes_may_come_one_by_one() -> None:
    peer = Peer(b"")
    news = [
        stream
        for byte in hello() + request(1, b"body") + request(3, b"next")
        for stream in peer.send(bytes([byte]))
    ]
    assert peer.failure is None
    assert {stream.id for stream in news} == {1, 3}
    assert b"".join(news[0].received) == b"body"
    assert all(stream.ended for stream in news)


def test_the_rest_of_a_frame_is_dropped_once_its_call_was_answered(peer: Peer) -> None:
    sent = frame(DATA, END_STREAM, 1, bytes(100))
    (stream,) = peer.send(request(1, None), sent[:50])
    peer.connection.send_trailers(stream, b"\x88")
    assert peer.send(sent[50:80]) == []
    (after,) = peer.send(sent[80:], request(3, b"body"))
    assert (after.id, peer.failure) == (3, None)
    assert b"".join(after.received) == b"body"


@pytest.mark.parametrize("size", [1, 7, 100, 9000, 16393, 40000])
def test_data_is_handed_on_as_it_comes_however_it_is_cut(size: int) -> None:
    peer = Peer()
    body = bytes(range(256)) * 200
    sent = request(1, None)
    for at in range(0, len(body), 16384):
        sent += frame(DATA, 0, 1, body[at : at + 16384])
    sent += frame(DATA, END_STREAM, 1) + request(3, b"x")
    got, streams = b"", {}
    for at in range(0, len(sent), size):
        for stream in peer.send(sent[at : at + size]):
            streams[stream.id] = stream
            if stream.id == 1:
                got += b"".join(stream.received)
                stream.received = []
    assert peer.failure is None
    assert got == body
    assert streams[1].ended
    assert streams[3].ended


def test_views_of_what_was_read_are_handed_on_without_a_copy(peer: Peer) -> None:
    memory = bytearray(request(1, b"body"))
    (stream,) = peer.connection.receive(memoryview(memory))
    memory[-4:] = b"BODY"
    assert bytes(stream.received[0]) == b"BODY"


def test_an_answer_is_fields_data_and_trailers(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    peer.connection.answer(stream, FORM, b"data")
    head, data, tail = peer.frames()
    assert (head.kind, head.flags, head.payload) == (HEADERS, END_HEADERS, FORM.head)
    assert (data.kind, data.flags, data.payload) == (DATA, 0, b"data")
    assert (tail.kind, tail.flags) == (HEADERS, END_HEADERS | END_STREAM)
    assert not peer.connection.streams


def test_an_answer_to_half_a_request_ends_the_request_too(peer: Peer) -> None:
    (stream,) = peer.send(request(1, None))
    peer.connection.answer(stream, FORM, b"data")
    assert code_of(peer.frames(), RST_STREAM) is ErrorCode.NO_ERROR
    # What was on its way is no fault of the client.
    peer.send(frame(DATA, END_STREAM, 1, b"late"))
    assert peer.frames() == []


def test_answers_wait_for_the_streams_window() -> None:
    peer = Peer(hello(pack(">HI", 4, 10)))
    peer.frames()
    (stream,) = peer.send(request(1))
    peer.connection.answer(stream, FORM, b"0123456789abc")
    head, data = peer.frames()
    assert (head.kind, data.payload) == (HEADERS, b"0123456789")
    assert peer.connection.queued_bytes == 3
    peer.send(frame(WINDOW_UPDATE, 0, 1, pack(">I", 2)))
    assert [each.payload for each in peer.frames()] == [b"ab"]
    peer.send(frame(SETTINGS, 0, 0, pack(">HI", 4, 11)))
    assert [each.kind for each in peer.frames()] == [SETTINGS, DATA, HEADERS]
    assert (peer.connection.queued_bytes, peer.connection.streams) == (0, {})


def test_answers_take_turns_under_the_connections_window(peer: Peer) -> None:
    streams = peer.send(request(1), request(3))
    for stream in streams:
        peer.connection.answer(stream, FORM, bytes(60_000))
    peer.frames()
    peer.send(frame(WINDOW_UPDATE, 0, 0, pack(">I", 200_000)))
    order = [each.stream_id for each in peer.frames() if each.kind == DATA]
    assert sorted(set(order)) == [1, 3]
    assert order != sorted(order)
    assert not peer.connection.streams


def test_data_wait_while_the_socket_takes_none(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    peer.connection.pause()
    peer.connection.answer(stream, FORM, b"data")
    assert [each.kind for each in peer.frames()] == [HEADERS]
    peer.connection.resume()
    assert [each.kind for each in peer.frames()] == [DATA, HEADERS]


def test_a_peer_that_turns_its_table_off_gets_a_notice_that_we_use_none() -> None:
    peer = Peer(hello(pack(">HI", 1, 0)))
    peer.frames()
    one, other = peer.send(request(1), request(3))
    peer.connection.answer(one, FORM, b"x")
    peer.connection.answer(other, FORM, b"x")
    first, second = (each for each in peer.frames() if each.kind == HEADERS and each.flags == 4)
    assert (first.payload, second.payload) == (b"\x20" + FORM.head, FORM.head)


def test_a_cancelled_stream_is_reported_and_what_waits_of_it_is_dropped(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    peer.connection.send_data(stream, bytes(100_000))
    peer.frames()
    assert peer.connection.queued_bytes > 0
    (told,) = peer.send(frame(RST_STREAM, 0, 1, pack(">I", 8)))
    assert (told, told.reset, told.is_open()) == (stream, ErrorCode.CANCEL, False)
    assert peer.connection.queued_bytes == 0
    assert peer.frames() == []


def test_windows_of_requests_are_granted_again(peer: Peer) -> None:
    for number in range(200):
        (stream,) = peer.send(request(2 * number + 1, bytes(16_000)))
        peer.connection.answer(stream, FORM, b"")
    granted = [each for each in peer.frames() if each.kind == WINDOW_UPDATE]
    assert peer.failure is None
    assert {each.stream_id for each in granted} == {0}


def test_nothing_is_granted_while_calls_are_held() -> None:
    peer = Peer(connection_window=100_000, stream_window=100_000)
    peer.connection.holding = True
    for number in range(7):
        peer.send(request(2 * number + 1, bytes(16_000)))
    assert peer.failure is ErrorCode.FLOW_CONTROL_ERROR

    peer = Peer(connection_window=100_000, stream_window=100_000)
    peer.connection.holding = True
    peer.send(request(1, bytes(16_000)))
    assert peer.frames() == []
    peer.connection.release()
    assert [each.number for each in peer.frames()] == [16_000]


# Field sections


def test_equal_blocks_are_decoded_once_until_the_table_changes(peer: Peer) -> None:
    first, second = peer.send(request(1), request(3))
    assert first.request is second.request
    changing = block([(":method", "POST"), (":path", "/p"), (":scheme", "http")], indexed=True)
    peer.send(request(5, b"", changing))
    (after,) = peer.send(request(7))
    assert after.request is not first.request
    assert after.request.fields == first.request.fields


def test_a_block_that_refers_to_the_table_means_what_the_table_says_now(peer: Peer) -> None:
    def put(value: str) -> bytes:
        # A literal with incremental indexing: the newest entry, 62.
        return b"\x40\x01k" + bytes([len(value)]) + value.encode()

    request_fields = block()
    refers = request_fields + b"\xbe"
    values = []
    for number, value in enumerate(("one", "two", "one")):
        peer.send(request(4 * number + 1, b"", request_fields + put(value)))
        (stream,) = peer.send(request(4 * number + 3, b"", refers))
        values.append(stream.request.get(b"k"))
    assert values == [b"one", b"two", b"one"]


def test_a_change_of_the_tables_size_forgets_what_was_decoded(peer: Peer) -> None:
    peer.send(request(1, b"", block() + b"\x40\x01k\x01v"))
    (stream,) = peer.send(request(3, b"", block() + b"\xbe"))
    assert stream.request.get(b"k") == b"v"
    # To 0 and back: the entry is gone, so that the index is none.
    peer.send(request(5, b"", b"\x20\x3f\xe1\x1f" + block()))
    peer.send(request(7, b"", block() + b"\xbe"))
    assert peer.failure is ErrorCode.COMPRESSION_ERROR


def test_a_section_may_come_in_several_frames(peer: Peer) -> None:
    section = block()
    news = peer.send(
        frame(HEADERS, END_STREAM, 1, section[:10]),
        frame(CONTINUATION, 0, 1, section[10:30]),
        frame(CONTINUATION, END_HEADERS, 1, section[30:]),
    )
    assert [stream.ended for stream in news] == [True]


def test_padding_and_priority_are_cut_off(peer: Peer) -> None:
    section = b"\x04" + b"\0\0\0\x01\xff" + block() + bytes(4)
    (stream,) = peer.send(
        frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, section),
        frame(DATA, END_STREAM | PADDED, 1, b"\x03body" + bytes(3)),
    )
    assert b"".join(stream.received) == b"body"


def test_trailers_end_a_request(peer: Peer) -> None:
    (stream,) = peer.send(
        request(1, None), frame(HEADERS, END_HEADERS | END_STREAM, 1, block([("k", "v")]))
    )
    assert stream.ended
    assert stream.trailers is not None
    assert stream.trailers.get(b"k") == b"v"


def without(name: str) -> list[tuple[str, str]]:
    return [field for field in dict_of().items() if field[0] != name]


def dict_of() -> dict[str, str]:
    return {":method": "POST", ":scheme": "http", ":path": "/p", "te": "trailers"}


MALFORMED = {
    "an upper-case name": [*dict_of().items(), ("Key", "v")],
    "a name with a space": [*dict_of().items(), ("a b", "v")],
    "an empty name": [*dict_of().items(), ("", "v")],
    "a line feed in a value": [*dict_of().items(), ("k", "a\nb")],
    "a NUL in a value": [*dict_of().items(), ("k", "a\0b")],
    "a path that begins with a space": [*without(":path"), (":path", " /p")],
    "a field of HTTP/1": [*dict_of().items(), ("connection", "close")],
    "another te": [*without("te"), ("te", "gzip")],
    "an unknown pseudo field": [(":odd", "v"), *dict_of().items()],
    "a response's pseudo field": [(":status", "200"), *dict_of().items()],
    "a pseudo field twice": [(":path", "/q"), *dict_of().items()],
    "a pseudo field after the others": [*without(":path"), (":path", "/p")],
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "an empty path": [(":path", ""), *without(":path")],
    "two authorities": [(":authority", "a"), *dict_of().items(), ("host", "b")],
    "a content-length that is no number": [*dict_of().items(), ("content-length", "x")],
    "no pseudo fields": [("k", "v")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_ends_its_stream_alone(
    peer: Peer, fields: list[tuple[str, str]]
) -> None:
    assert peer.send(request(1, b"", block(fields))) == []
    codes = [each.error for each in peer.frames() if each.kind == RST_STREAM]
    assert codes[0] == ErrorCode.PROTOCOL_ERROR
    (after,) = peer.send(request(3))
    assert after.id == 3


@pytest.mark.parametrize(("length", "body"), [("3", b"1234"), ("5", b"1234"), ("1", b"")])
def test_a_content_length_that_is_not_the_datas_ends_the_stream(
    peer: Peer, length: str, body: bytes
) -> None:
    fields = block([*dict_of().items(), ("content-length", length)])
    news = peer.send(request(1, body, fields))
    assert all(stream.reset is ErrorCode.PROTOCOL_ERROR for stream in news)
    assert code_of(peer.frames(), RST_STREAM) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("length", [None, "4"])
def test_calls_of_known_fields_are_read_in_whatever_order_their_frames_come(
    peer: Peer, length: str | None
) -> None:
    fields = block([*dict_of().items(), *([("content-length", length)] if length else [])])
    peer.send(request(1, b"1234", fields))

    heads = [frame(HEADERS, END_HEADERS, id_, fields) for id_ in (3, 5, 7)]
    bodies = [frame(DATA, 0, 3, b"12"), frame(DATA, END_STREAM, 5, b"abcd")]
    news = peer.send(b"".join([*heads, *bodies, frame(DATA, END_STREAM, 3, b"34")]))

    assert [(each.id, each.ended, each.received) for each in news] == [
        (3, True, [b"12", b"34"]),
        (5, True, [b"abcd"]),
        (7, False, []),
    ]


@pytest.mark.parametrize("body", [b"123", b"12345"])
def test_a_content_length_counts_for_known_fields_too(peer: Peer, body: bytes) -> None:
    fields = block([*dict_of().items(), ("content-length", "4")])
    peer.send(request(1, b"1234", fields))
    assert not peer.frames()

    (stream,) = peer.send(request(3, body, fields))

    assert stream.reset is ErrorCode.PROTOCOL_ERROR
    assert code_of(peer.frames(), RST_STREAM) is ErrorCode.PROTOCOL_ERROR


# Rules of the connection

OPEN = request(1, None)
FATAL = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
    "no settings first": (hello()[:24] + frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a frame above 1 MiB": (frame(DATA, 0, 1, bytes(2**20 + 1)), ErrorCode.FRAME_SIZE_ERROR),
    "PING of 64 KiB and one byte": (
        frame(PING, 0, 0, bytes(2**16 + 1)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "DATA on stream 0": (frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "padding alone": (OPEN + frame(DATA, PADDED, 1, b"\x05abcd"), ErrorCode.PROTOCOL_ERROR),
    "no padding length": (OPEN + frame(DATA, PADDED, 1), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0": (request(0), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream": (request(2), ErrorCode.PROTOCOL_ERROR),
    "a lower stream than before": (request(5) + request(3), ErrorCode.PROTOCOL_ERROR),
    "HEADERS too short": (frame(HEADERS, WITH_PRIORITY, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (OPEN + frame(RST_STREAM, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM of an idle one": (frame(RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on stream 0": (frame(RST_STREAM, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "an ACK that says more": (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "ENABLE_PUSH 2": (frame(SETTINGS, 0, 0, pack(">HI", 2, 2)), ErrorCode.PROTOCOL_ERROR),
    "a window above 2^31-1": (
        frame(SETTINGS, 0, 0, pack(">HI", 4, 2**31)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "frames of 16383": (frame(SETTINGS, 0, 0, pack(">HI", 5, 16383)), ErrorCode.PROTOCOL_ERROR),
    "frames of 2^24": (frame(SETTINGS, 0, 0, pack(">HI", 5, 2**24)), ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "PING on a stream": (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3 bytes": (
        frame(WINDOW_UPDATE, 0, 0, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "WINDOW_UPDATE by 0": (frame(WINDOW_UPDATE, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a window that overflows": (
        frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**31 - 1)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a stream's window that SETTINGS let overflow": (
        OPEN
        + frame(WINDOW_UPDATE, 0, 1, pack(">I", 2**31 - 1 - 65535))
        + frame(SETTINGS, 0, 0, pack(">HI", 4, 65536)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "CONTINUATION of nothing": (frame(CONTINUATION, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "a frame inside a section": (
        frame(HEADERS, 0, 1, block()) + frame(PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        frame(HEADERS, 0, 1, block()) + frame(CONTINUATION, END_HEADERS, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "an index that is not in the table": (request(1, b"", b"\xff\x80\x01"), None),
    "a string longer than the block": (request(1, b"", b"\x00\x7f\x10ab"), None),
}


@pytest.mark.parametrize(("sent", "code"), FATAL.values(), ids=FATAL)
def test_what_breaks_the_connection_ends_it_with_its_code(
    sent: bytes, code: ErrorCode | None
) -> None:
    greeted = sent[:3] not in (b"GET", b"PRI")
    peer = Peer() if greeted else Peer(b"")
    peer.send(sent)
    frames = peer.frames()
    assert code_of(frames, GOAWAY) is (code or ErrorCode.COMPRESSION_ERROR)
    assert peer.connection.over
    assert peer.send(request(9)) == []


ON_A_STREAM = {
    "WINDOW_UPDATE by 0": (frame(WINDOW_UPDATE, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a window that overflows": (
        frame(WINDOW_UPDATE, 0, 1, pack(">I", 2**31 - 1)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "PRIORITY of 4 bytes": (frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "DATA after the end": (
        frame(DATA, END_STREAM, 1) + frame(DATA, 0, 1, b"x"),
        ErrorCode.STREAM_CLOSED,
    ),
    "HEADERS after the end": (
        frame(DATA, END_STREAM, 1) + request(1, None),
        ErrorCode.STREAM_CLOSED,
    ),
    "trailers without an end": (request(1, None), ErrorCode.PROTOCOL_ERROR),
    "more than its window": (frame(DATA, 0, 1, bytes(11)), ErrorCode.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize(("sent", "code"), ON_A_STREAM.values(), ids=ON_A_STREAM)
def test_what_breaks_a_stream_ends_it_alone(sent: bytes, code: ErrorCode) -> None:
    peer = Peer(stream_window=10)
    peer.send(OPEN, sent)
    assert code_of(peer.frames(), RST_STREAM) is code
    (after,) = peer.send(request(3))
    assert after.id == 3


def test_unknown_frames_and_settings_and_late_ones_are_ignored(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    peer.connection.answer(stream, FORM, b"x")
    peer.frames()
    peer.send(
        frame(0x42, 0xFF, 77, b"what?"),
        frame(SETTINGS, ACK, 0),
        frame(WINDOW_UPDATE, 0, 1, pack(">I", 5)),
        frame(RST_STREAM, 0, 1, bytes(4)),
        frame(PRIORITY, 0, 99, bytes(5)),
        frame(SETTINGS, 0, 0, pack(">HI", 0x99, 7)),
    )
    assert [each.flags for each in peer.frames()] == [ACK]
    assert peer.failure is None


# What is counted


def test_a_section_in_endless_continuations_ends_the_connection(peer: Peer) -> None:
    peer.send(frame(HEADERS, 0, 1, b""))
    for _ in range(20):
        peer.send(frame(CONTINUATION, 0, 1))
    assert peer.failure is ErrorCode.ENHANCE_YOUR_CALM


def test_a_section_that_unpacks_to_more_than_is_allowed_ends_the_connection(peer: Peer) -> None:
    # One entry of 4 KB, referred to by one byte each time.
    entry = b"\x40\x01k" + bytes(hpack_length(4000)) + bytes(4000)
    peer.send(frame(HEADERS, END_HEADERS, 1, block() + entry + b"\xbe" * 4000))
    assert peer.failure is ErrorCode.ENHANCE_YOUR_CALM


def hpack_length(size: int) -> bytes:
    parts, rest = [0x7F], size - 0x7F
    while rest >= 0x80:
        parts.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*parts, rest])


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": lambda n: request(2 * n + 1) + frame(RST_STREAM, 0, 2 * n + 1, pack(">I", 8)),
    "streams that the server has to reset": lambda n: (
        request(2 * n + 1) + frame(WINDOW_UPDATE, 0, 2 * n + 1, bytes(4))
    ),
    "PING": lambda _: frame(PING, 0, 0, bytes(8)),
    "SETTINGS": lambda _: frame(SETTINGS, 0, 0),
    "PRIORITY": lambda _: frame(PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda _: frame(0x77, 0, 0),
    "empty DATA": lambda n: (OPEN if not n else b"") + frame(DATA, 0, 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_the_connection(flood: Callable[[int], bytes]) -> None:
    peer = Peer(max_streams=100)
    for number in range(5000):
        peer.send(flood(number))
        peer.connection.to_send()
        if peer.failure is not None:
            break
    assert peer.failure is ErrorCode.ENHANCE_YOUR_CALM


def test_cancelling_now_and_then_is_no_flood() -> None:
    peer = Peer(max_streams=100)
    for number in range(5000):
        peer.send(request(2 * number + 1), frame(RST_STREAM, 0, 2 * number + 1, pack(">I", 8)))
        peer.clock.now += 0.01
    assert peer.failure is None


def test_a_balancer_that_cancels_all_calls_at_their_deadlines_is_no_flood() -> None:
    peer = Peer(max_streams=100)
    for wave in range(100):
        ids = [2 * (100 * wave + number) + 1 for number in range(100)]
        peer.send(*map(request, ids))
        # The shortest deadline that is spared: 10,000 a second.
        peer.clock.now += 0.0101
        peer.send(*(frame(RST_STREAM, 0, each, pack(">I", 8)) for each in ids))
        peer.connection.to_send()
    assert peer.failure is None


def test_pings_beside_calls_are_answered_and_no_flood(peer: Peer) -> None:
    for number in range(3000):
        (stream,) = peer.send(request(2 * number + 1))
        peer.connection.answer(stream, FORM, b"x")
        peer.frames()
        peer.send(frame(PING, 0, 0, b"12345678"))
        (pong,) = peer.frames()
        assert (pong.kind, pong.flags, pong.payload) == (PING, ACK, b"12345678")
    assert peer.failure is None


def test_a_balancer_that_pings_while_a_call_takes_long_is_no_flood(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    for _ in range(100):
        peer.clock.now += 2.0
        peer.send(frame(PING, 0, 0, bytes(8)))
    assert peer.failure is None
    assert stream.is_open()


def test_pings_without_calls_end_the_connection_as_grpc_clients_know(peer: Peer) -> None:
    for _ in range(4):
        peer.clock.now += 0.9
        peer.send(frame(PING, 0, 0, bytes(8)))
    (goaway,) = (each for each in peer.frames() if each.kind == GOAWAY)
    assert ErrorCode(goaway.error) is ErrorCode.ENHANCE_YOUR_CALM
    assert goaway.payload[8:] == b"too_many_pings"


def test_a_stream_too_many_is_refused_for_the_peer_to_try_again() -> None:
    peer = Peer(max_streams=2)
    streams = peer.send(request(1), request(3), request(5))
    assert [stream.id for stream in streams] == [1, 3]
    assert code_of(peer.frames(), RST_STREAM) is ErrorCode.REFUSED_STREAM
    peer.connection.answer(streams[0], FORM, b"x")
    (after,) = peer.send(request(7))
    assert after.id == 7


# Time


@pytest.mark.parametrize("begun", [b"", hello()[:10], hello()[:30]])
def test_a_greeting_that_does_not_come_ends_the_connection(begun: bytes) -> None:
    peer = Peer(begun)
    peer.clock.now += 9
    peer.connection.tick()
    assert peer.failure is None
    peer.clock.now += 2
    peer.connection.tick()
    assert peer.failure is ErrorCode.SETTINGS_TIMEOUT
    assert peer.connection.over


def test_a_section_that_does_not_end_ends_the_connection(peer: Peer) -> None:
    peer.send(frame(HEADERS, 0, 1, block()))
    peer.clock.now += 11
    peer.connection.tick()
    assert peer.failure is ErrorCode.PROTOCOL_ERROR


def test_a_frame_that_comes_by_the_byte_ends_the_connection(peer: Peer) -> None:
    sent = frame(HEADERS, END_HEADERS, 1, block())
    peer.send(sent[:20])
    for at in range(20, 23):
        peer.clock.now += 4
        peer.send(sent[at : at + 1])
        peer.connection.tick()
    assert peer.failure is ErrorCode.PROTOCOL_ERROR


def test_frames_that_go_on_are_not_held_for_one_that_does_not(peer: Peer) -> None:
    pings = frame(PING, ACK, 0, bytes(8)) * 20
    for at in range(0, len(pings), 13):
        peer.clock.now += 4
        peer.send(pings[at : at + 13])
        peer.connection.tick()
    assert peer.failure is None


def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    peer = Peer(keepalive_s=60.0, keepalive_timeout_s=20.0)
    peer.clock.now += 61
    peer.connection.tick()
    (asked,) = peer.frames()
    assert asked.kind == PING
    peer.clock.now += 19
    peer.send(frame(PING, ACK, 0, asked.payload))
    peer.clock.now += 59
    peer.connection.tick()
    assert peer.frames() == []
    peer.clock.now += 2
    peer.connection.tick()
    peer.clock.now += 21
    peer.connection.tick()
    assert peer.connection.over


def test_a_peer_that_takes_no_answers_is_not_taken_for_silent() -> None:
    peer = Peer(keepalive_s=60.0, keepalive_timeout_s=20.0)
    peer.connection.pause()
    for _ in range(3):
        peer.clock.now += 50
        peer.connection.tick()
    assert peer.frames() == []
    peer.connection.resume()
    peer.connection.tick()
    assert peer.frames() == []
    peer.clock.now += 61
    peer.connection.tick()
    assert [each.kind for each in peer.frames()] == [PING]


# Leaving


def test_what_a_goaway_said_is_never_more_in_a_later_one(peer: Peer) -> None:
    peer.send(request(1))
    peer.connection.leave()
    _, ping = peer.frames()
    peer.send(frame(PING, ACK, 0, ping.payload))
    peer.frames()
    peer.send(request(3), frame(PING, 0, 1, bytes(8)))
    (last,) = (each for each in peer.frames() if each.kind == GOAWAY)
    assert (last.number, last.error) == (1, ErrorCode.PROTOCOL_ERROR)


def test_leaving_gives_notice_first_and_drops_streams_only_once_the_peer_knows(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    peer.connection.leave()
    goaway, ping = peer.frames()
    assert (goaway.kind, goaway.number, goaway.error) == (GOAWAY, 2**31 - 1, 0)
    (late,) = peer.send(request(3))
    peer.send(frame(PING, ACK, 0, ping.payload))
    (last,) = peer.frames()
    assert (last.kind, last.number) == (GOAWAY, 3)
    assert peer.send(request(5), frame(DATA, 0, 5, b"x")) == []
    assert not peer.connection.over
    peer.connection.answer(stream, FORM, b"x")
    peer.connection.answer(late, FORM, b"x")
    assert peer.connection.over
    assert peer.failure is None


def test_leaving_does_not_wait_for_a_peer_that_answers_no_ping(peer: Peer) -> None:
    peer.connection.leave()
    peer.clock.now += 1.1
    peer.connection.tick()
    assert peer.connection.over


def test_a_peer_that_leaves_is_answered_first(peer: Peer) -> None:
    (stream,) = peer.send(request(1), frame(GOAWAY, 0, 0, bytes(8)))
    assert not peer.connection.over
    peer.connection.answer(stream, FORM, b"x")
    assert peer.connection.over


def test_streams_get_a_notice_when_the_connection_fails(peer: Peer) -> None:
    (stream,) = peer.send(request(1))
    (told,) = peer.send(frame(PING, 0, 1, bytes(8)))
    assert told is stream
    assert not told.is_open()
    assert not peer.connection.streams
