"""Our HTTP/2 without sockets: fed with any bytes, and checked after every piece."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from hyperframe.frame import Frame, GoAwayFrame

from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.fields import encode_fields
from forwardpass.server.transport.http2.limits import ConnectionLimits
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.http2.stream import Payload, Stream
from support.peers import compression, control, definitions, messages, starting, streams
from support.peers.case import Case
from support.peers.frames import PREFACE, settings

LIMITS = ConnectionLimits(
    max_streams=streams.MAX_STREAMS, stream_window=2**16, connection_window=2**18
)
GREETING = PREFACE + settings()
FORM = AnswerForm(encode_fields([(b":status", b"200")]), encode_fields([(b"grpc-status", b"0")]))
REPLY = bytes(range(256)) * 300
"""A reply larger than the default window."""


def _seeds(cases: Iterable[Case]) -> Iterator[bytes]:
    for case in cases:
        sent = b"".join(step for step in case.steps if isinstance(step, bytes))
        # A fuzzer learns nothing from a megabyte of zeros.
        if 0 < len(sent) < 2**17:
            yield GREETING + sent if case.greet else sent


SEEDS = sorted(
    set(
        _seeds(
            [
                *starting.CASES,
                *streams.CASES,
                *definitions.CASES,
                *control.CASES,
                *messages.CASES,
                *compression.CASES,
            ]
        )
    )
)
"""The bytes that the cases of the RFCs send: the corpus with which fuzzers begin."""


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut bytes as a network might."""
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in pairwise(places):
        if start < end:
            yield data[start:end]


def exercise(parts: Iterable[bytes]) -> Connection:
    """Feed a connection that answers every call; fail if it does something forbidden."""
    connection = Connection(LIMITS, clock=lambda: 0.0)
    read = wrote = 0
    answered: set[int] = set()
    wire = bytearray(b"".join(connection.to_send()))
    for part in parts:
        failed = connection.failure is not None
        read += len(part)
        while part:
            room = connection.room()
            if room is None:
                # Half of them as views of memory that is used again, as the server does.
                memory = bytearray(part)
                news = connection.receive(memoryview(memory) if len(part) % 2 else part)
                part = b""
            else:
                memory = bytearray()
                placed = min(len(room), len(part))
                room[:placed] = part[:placed]
                news = connection.receive_placed(placed)
                part = part[placed:]
            assert not (failed and news)
            for stream in news:
                _answer(connection, stream, answered)
            memory[:] = bytes(len(memory))
        out = connection.to_send()
        assert not (failed and out)
        wire += b"".join(out)
        wrote += sum(map(len, out))
        _look_at(connection)
    # An answer may cost at most a few times as much as its request.
    assert wrote <= 2000 + 20 * read + len(answered) * (len(REPLY) + 200), (wrote, read)
    last = list(frames(bytes(wire)))[-1]
    assert (connection.failure is not None) <= isinstance(last, GoAwayFrame)
    connection.tick()
    return connection


def _answer(connection: Connection, stream: Stream, answered: set[int]) -> None:
    """Send an answer of every kind, chosen by the stream's id."""
    size = stream.placed + sum(map(len, stream.received))
    stream.received.clear()
    stream.placed = 0
    if stream.id % 8 > 4:
        # As of a large message.
        stream.sink = memoryview(bytearray(stream.id * 20_000 % 70_000 + 1))
    if stream.reset is not None:
        return
    if not stream.ended:
        connection.grant(stream, size)
        return
    answered.add(stream.id)
    match stream.id // 2 % 4:
        case 0:
            connection.answer(stream, FORM, b"reply")
        case 1:
            connection.answer(stream, FORM, REPLY)
        case 2:
            connection.send_trailers(stream, FORM.tail)
        case _:
            connection.send_headers(stream, FORM.head)
            connection.send_data(stream, REPLY)
            connection.send_trailers(stream, FORM.tail)


def _look_at(connection: Connection) -> None:
    assert len(connection.streams) <= LIMITS.max_streams
    waiting = 0
    for stream_id, stream in connection.streams.items():
        assert stream.id == stream_id
        assert stream.reset is None
        assert stream.credit >= 0
        waiting += sum(len(item) for item in stream.pending or () if isinstance(item, Payload))
    assert connection.queued_bytes == waiting
    # A frame or a field section that is not whole yet.
    assert len(connection._rest) < ConnectionLimits().max_block_bytes + 9
    block = connection._block
    assert block is None or block.size <= LIMITS.max_block_bytes
    if connection.failure is not None:
        assert connection.over
        assert not connection.streams


def frames(wire: bytes) -> Iterator[Frame]:
    """Read what a server wrote, which has to be whole frames."""
    while wire:
        frame, size = Frame.parse_frame_header(memoryview(wire[:9]), strict=True)
        assert len(wire) >= 9 + size
        frame.parse_body(memoryview(wire[9 : 9 + size]))
        yield frame
        wire = wire[9 + size :]


def seen(parts: Iterable[bytes]) -> tuple[object, dict[int, tuple[bool, object, bytes]]]:
    """Feed a connection that sends nothing; return how it ended, and what came on each stream."""
    connection = Connection(LIMITS, clock=lambda: 0.0)
    found: dict[int, Stream] = {}
    data: dict[int, bytes] = {}
    for part in parts:
        for stream in connection.receive(part):
            found[stream.id] = stream
            data[stream.id] = data.get(stream.id, b"") + b"".join(stream.received)
            stream.received.clear()
    failure = connection.failure and (connection.failure.code, connection.failure.text)
    return failure, {
        # Of a stream that was cut off, a part may have been handed on before.
        key: (stream.ended, stream.reset, b"" if stream.reset is not None else data[key])
        for key, stream in found.items()
    }
