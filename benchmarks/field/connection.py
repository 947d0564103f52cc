"""A client's side of HTTP/2 that sends one prepared gRPC request again and again.

Without sockets: bytes in, bytes out. Framed by hand, since the load must cost less than the
fastest server that it measures: a general client of HTTP/2 in Python needs 20 times as much.
"""

import struct
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from hpack import Decoder, Encoder

from benchmarks.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEAD_BYTES,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_STREAMS,
    PADDED,
    PING,
    PRIORITY,
    REFILL_BYTES,
    RST_STREAM,
    SETTINGS,
    TABLE_SIZE,
    WIDE,
    WIDEST_WINDOW,
    WINDOW_UPDATE,
    around_numbers,
    frame,
    spans,
    window_update,
)

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_REFUSED_STREAM = 7
_PREFIX_BYTES = 5
"""Of gRPC, before each message."""


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
        self.outgoing += frame(SETTINGS, 0, 0, WIDE)
        self.outgoing += window_update(WIDEST_WINDOW - FIRST_WINDOW)
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
        self._incoming = b""
        self._received = 0
        self._window = self._initial_window = FIRST_WINDOW
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
        self.outgoing += frame(HEADERS, END_HEADERS, stream, block)
        size = len(self._body)
        if size <= min(self._window, self._initial_window, self._max_frame) and not self._unsent:
            self._window -= size
            self.outgoing += frame(DATA, END_STREAM, stream, self._body)
        else:
            self._unsent[stream] = _Unsent(self._initial_window)
            self._send_bodies()

    def receive(self, data: bytes) -> list[Answer]:
        """Take what came; return the calls that ended.

        Raises ConnectionError if the server says that it closes the connection.
        """
        answers: list[Answer] = []
        incoming, at = self._incoming + data, 0
        # Where frames of one stream began, and which stream's.
        row, in_a_row = 0, 0
        while len(incoming) - at >= HEAD_BYTES:
            name = incoming[at + 5 : at + HEAD_BYTES]
            usual = self._usual
            if usual is not None and incoming.startswith(name.join(usual.parts), at):
                self._count(_PREFIX_BYTES + len(usual.message))
                call = self._calls.pop(int.from_bytes(name, "big"))
                answers.append(Answer(call, "0", usual.message))
                at += usual.size
                continue
            end = at + HEAD_BYTES + int.from_bytes(incoming[at : at + 3], "big")
            if len(incoming) < end:
                break
            kind, flags = incoming[at + 3], incoming[at + 4]
            stream = int.from_bytes(name, "big")
            if stream != in_a_row:
                row, in_a_row = at, stream
            ended = len(answers)
            self._take(kind, flags, stream, incoming[at + HEAD_BYTES : end], answers)
            at = end
            if len(answers) > ended and answers[-1].status == "0":
                self._usual = self._learned(incoming[row:end], answers[-1].message)
        self._incoming = incoming[at:]
        while self._waiting and len(self._calls) < self._max_streams:
            self.call(self._waiting.popleft())
        return answers

    def _learned(self, frames: bytes, message: bytes) -> _Usual | None:
        """Return an answer's frames as the usual ones, if any answer may come so."""
        kinds = []
        for at, end in spans(frames):
            kinds.append(frames[at + 3])
            if kinds[-1] == HEADERS and frames[at + HEAD_BYTES : end] not in self._decoded:
                return None
        if kinds != [HEADERS, DATA, HEADERS]:
            return None
        return _Usual(around_numbers(frames), len(frames), message)

    def _count(self, size: int) -> None:
        """Take note of payload, and give the server its window back in time."""
        self._received += size
        if self._received > REFILL_BYTES:
            self.outgoing += window_update(self._received)
            self._received = 0

    def _take(
        self, kind: int, flags: int, stream: int, payload: bytes, answers: list[Answer]
    ) -> None:
        if flags & (PADDED | PRIORITY) and kind in (DATA, HEADERS):
            raise ConnectionError("the server pads its frames, which this client cannot read")
        if kind == DATA:
            self._count(len(payload))
            if stream in self._calls:
                self._messages.setdefault(stream, bytearray()).extend(payload)
                if flags & END_STREAM:
                    answers.append(self._ended(stream, "no trailers"))
        elif kind == HEADERS:
            fields = self._fields(payload)
            if flags & END_STREAM and stream in self._calls:
                answers.append(self._ended(stream, fields.get("grpc-status", "no grpc-status")))
        elif kind == RST_STREAM and stream in self._calls:
            code = int.from_bytes(payload, "big")
            if code == _REFUSED_STREAM:
                # Not looked at: a server may count a stream for a moment after its last frame.
                self._waiting.append(self._calls.pop(stream))
                self._unsent.pop(stream, None)
                return
            answers.append(self._ended(stream, f"stream reset with HTTP/2's code {code}"))
        elif kind == SETTINGS and not flags & ACK:
            self._set(payload)
        elif kind == PING and not flags & ACK:
            self.outgoing += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += increment
            elif stream in self._unsent:
                self._unsent[stream].window += increment
            self._send_bodies()
        elif kind == GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            raise ConnectionError(f"the server closes the connection: {code} {payload[8:]!r}")

    def _ended(self, stream: int, status: str) -> Answer:
        self._unsent.pop(stream, None)
        message = self._messages.pop(stream, b"")
        return Answer(self._calls.pop(stream), status, bytes(message[_PREFIX_BYTES:]))

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
            if identifier == TABLE_SIZE and value < self._encoder.header_table_size:
                self._encoder.header_table_size = value
                self._block = b""
            elif identifier == MAX_STREAMS:
                self._max_streams = value
            elif identifier == MAX_FRAME:
                self._max_frame = value
            elif identifier == INITIAL_WINDOW:
                for state in self._unsent.values():
                    state.window += value - self._initial_window
                self._initial_window = value
        self.ready = True
        self.outgoing += frame(SETTINGS, ACK, 0, b"")
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
                self.outgoing += frame(DATA, END_STREAM if last else 0, stream, part)
            if state.sent == len(self._body):
                del self._unsent[stream]
