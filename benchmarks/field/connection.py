"""A client's side of HTTP/2 that sends one prepared gRPC request again and again.

Without sockets: bytes in, bytes out. Framed by hand, since the load must cost less than the
fastest server that it measures: a general client of HTTP/2 in Python needs 20 times as much.
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hpack import Decoder, Encoder

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_TABLE_SIZE, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 3, 4, 5
_REFUSED_STREAM = 7
_FIRST_WINDOW = 65_535
_OUR_WINDOW = 2**31 - 1
_REFILL_BYTES = 2**30


class Answer(NamedTuple):
    """How a call ended."""

    call: int
    """The number that it was sent with."""
    status: str
    """The `grpc-status` of its trailers, or what happened instead."""
    message: bytes


@dataclass(slots=True)
class _Unsent:
    """A request whose body waits for the server's windows."""

    window: int
    sent: int = 0
    """Of the body, in bytes."""


@dataclass(frozen=True, slots=True)
class _Usual:
    """A right answer whose frames came in a row, with headers that changed no table.

    Most servers answer every call by these bytes, but for the stream's number in each frame:
    one comparison reads them.
    """

    parts: tuple[bytes, ...]
    """What is before, between and after the numbers."""
    size: int
    message: bytes


class Connection:
    """One connection; `outgoing` is what has to be written."""

    def __init__(self, authority: str, path: str, message: bytes) -> None:
        """Prepare calls of a method with a message."""
        self.outgoing = bytearray(_PREFACE)
        self.outgoing += _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, _OUR_WINDOW))
        self.outgoing += _window_update(_OUR_WINDOW - _FIRST_WINDOW)
        self.ready = False
        """Whether the server's settings came; calls may be sent from then on."""
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._body = b"\0" + struct.pack(">I", len(message)) + message
        self._encoder, self._decoder = Encoder(), Decoder()
        self._decoded: dict[bytes, dict[str, str]] = {}
        self._block = b""
        self._incoming = bytearray()
        self._received = 0
        self._window = self._initial_window = _FIRST_WINDOW
        self._max_frame, self._max_streams = 16_384, 2**31
        self._next_stream = 1
        self._calls: dict[int, int] = {}
        """The calls that have not ended, by their streams."""
        self._unsent: dict[int, _Unsent] = {}
        self._messages: dict[int, bytearray] = {}
        """What came so far of the answers that have begun."""
        self._waiting: deque[int] = deque()
        """Calls that wait until the server takes one more stream."""
        self._usual: _Usual | None = None

    def call(self, number: int) -> None:
        """Send the request once more, as soon as the server's limits let it."""
        if len(self._calls) >= self._max_streams:
            self._waiting.append(number)
            return
        stream = self._next_stream
        self._next_stream += 2
        self._calls[stream] = number
        # From the second on the block is made of indices alone, as any client's.
        block = self._block or self._encoder.encode(self._headers)
        if not self._block:
            self._block = self._encoder.encode(self._headers)
        self.outgoing += _frame(_HEADERS, _END_HEADERS, stream, block)
        size = len(self._body)
        if size <= min(self._window, self._initial_window, self._max_frame) and not self._unsent:
            self._window -= size
            self.outgoing += _frame(_DATA, _END_STREAM, stream, self._body)
        else:
            self._unsent[stream] = _Unsent(self._initial_window)
            self._send_bodies()

    def receive(self, data: bytes) -> list[Answer]:
        """Take what came; return the calls that ended.

        Raises ConnectionError if the server says that it closes the connection.
        """
        answers: list[Answer] = []
        incoming, at = bytes(self._incoming) + data, 0
        self._incoming.clear()
        row, in_a_row = 0, 0
        """Where frames of one stream began, and which stream's."""
        while len(incoming) - at >= 9:
            name = incoming[at + 5 : at + 9]
            usual = self._usual
            if usual is not None and incoming.startswith(name.join(usual.parts), at):
                self._count(len(usual.message))
                call = self._calls.pop(int.from_bytes(name, "big"))
                answers.append(Answer(call, "0", usual.message))
                at += usual.size
                continue
            end = at + 9 + int.from_bytes(incoming[at : at + 3], "big")
            if len(incoming) < end:
                break
            kind, flags = incoming[at + 3], incoming[at + 4]
            stream = int.from_bytes(name, "big")
            if stream != in_a_row:
                row, in_a_row = at, stream
            ended = len(answers)
            self._take(kind, flags, stream, incoming[at + 9 : end], answers)
            at = end
            if len(answers) > ended and answers[-1].status == "0":
                self._usual = self._learned(incoming[row:end], answers[-1].message)
        self._incoming += incoming[at:]
        while self._waiting and len(self._calls) < self._max_streams:
            self.call(self._waiting.popleft())
        return answers

    def _learned(self, frames: bytes, message: bytes) -> _Usual | None:
        """Return an answer's frames as the usual ones, if any answer may come so."""
        parts, cut = [], 0
        kinds = []
        for at, end in _spans(frames):
            kinds.append(frames[at + 3])
            if kinds[-1] == _HEADERS and frames[at + 9 : end] not in self._decoded:
                return None
            parts.append(frames[cut : at + 5])
            cut = at + 9
        if kinds != [_HEADERS, _DATA, _HEADERS]:
            return None
        return _Usual((*parts, frames[cut:]), len(frames), message)

    def _count(self, size: int) -> None:
        """Take note of payload, and give the server its window back in time."""
        self._received += size
        if self._received > _REFILL_BYTES:
            self.outgoing += _window_update(self._received)
            self._received = 0

    def _take(
        self, kind: int, flags: int, stream: int, payload: bytes, answers: list[Answer]
    ) -> None:
        if flags & (_PADDED | _PRIORITY) and kind in (_DATA, _HEADERS):
            raise ConnectionError("the server pads its frames, which this client cannot read")
        if kind == _DATA:
            self._count(len(payload))
            if stream in self._calls:
                self._messages.setdefault(stream, bytearray()).extend(payload)
                if flags & _END_STREAM:
                    answers.append(self._ended(stream, "no trailers"))
        elif kind == _HEADERS:
            fields = self._fields(payload)
            if flags & _END_STREAM and stream in self._calls:
                answers.append(self._ended(stream, fields.get("grpc-status", "no grpc-status")))
        elif kind == _RST_STREAM and stream in self._calls:
            code = int.from_bytes(payload, "big")
            if code == _REFUSED_STREAM:
                # Not looked at: a server may count a stream for a moment after its last frame.
                self._waiting.append(self._calls.pop(stream))
                self._unsent.pop(stream, None)
                return
            answers.append(self._ended(stream, f"stream reset with HTTP/2's code {code}"))
        elif kind == _SETTINGS and not flags & _ACK:
            self._set(payload)
        elif kind == _PING and not flags & _ACK:
            self.outgoing += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += increment
            elif stream in self._unsent:
                self._unsent[stream].window += increment
            self._send_bodies()
        elif kind == _GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            raise ConnectionError(f"the server closes the connection: {code} {payload[8:]!r}")

    def _ended(self, stream: int, status: str) -> Answer:
        self._unsent.pop(stream, None)
        message = self._messages.pop(stream, b"")
        return Answer(self._calls.pop(stream), status, bytes(message[5:]))

    def _fields(self, block: bytes) -> dict[str, str]:
        """Decode a block; one that leaves the decoder as it was is decoded once."""
        fields = self._decoded.get(block)
        if fields is None:
            table = self._decoder.header_table
            before = list(table.dynamic_entries)
            fields = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if list(table.dynamic_entries) == before:
                self._decoded[block] = fields
            else:
                self._decoded.clear()
                self._usual = None
        return fields

    def _set(self, payload: bytes) -> None:
        for identifier, value in struct.iter_unpack(">HI", payload):
            if identifier == _TABLE_SIZE and value < self._encoder.header_table_size:
                self._encoder.header_table_size = value
                self._block = b""
            elif identifier == _MAX_STREAMS:
                self._max_streams = value
            elif identifier == _MAX_FRAME:
                self._max_frame = value
            elif identifier == _INITIAL_WINDOW:
                for state in self._unsent.values():
                    state.window += value - self._initial_window
                self._initial_window = value
        self.ready = True
        self.outgoing += _frame(_SETTINGS, _ACK, 0, b"")
        self._send_bodies()

    def _send_bodies(self) -> None:
        for stream, state in list(self._unsent.items()):
            while state.sent < len(self._body):
                room = min(self._window, state.window, self._max_frame)
                if room <= 0:
                    break
                part = self._body[state.sent : state.sent + room]
                state.sent += len(part)
                state.window -= len(part)
                self._window -= len(part)
                last = state.sent == len(self._body)
                self.outgoing += _frame(_DATA, _END_STREAM if last else 0, stream, part)
            if state.sent == len(self._body):
                del self._unsent[stream]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = struct.pack(">I", len(payload))[1:]
    return b"%b%c%c%b%b" % (head, kind, flags, stream.to_bytes(4, "big"), payload)


def _spans(frames: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each of whole frames begins and ends."""
    at = 0
    while at < len(frames):
        end = at + 9 + int.from_bytes(frames[at : at + 3], "big")
        yield at, end
        at = end


def _window_update(increment: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", increment))
