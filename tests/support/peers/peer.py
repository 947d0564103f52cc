"""A client that sends any bytes and reads the replies, with hyperframe and hpack."""

import socket
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from forwardpass.proto import inference_pb2 as pb
from support.peers.frames import ACK, PREFACE, SETTINGS, frame, settings
from support.served import GOOD
from support.wire import arrays, assert_same_bits

TIMEOUT_S = 30.0


@dataclass
class Answer:
    """The answer received on one stream."""

    sections: list[dict[str, str]] = field(default_factory=list)
    """The fields, and the trailers if there are any."""
    data: bytes = b""
    ended: bool = False
    reset: int | None = None
    """The code of RST_STREAM; None without one."""

    @property
    def status(self) -> str:
        return self.sections[0][":status"]

    @property
    def grpc_status(self) -> int:
        return int(self.sections[-1]["grpc-status"])

    def assert_good(self) -> None:
        """Check that it is `linear`'s answer to BODY, whole and in the order that gRPC requires."""
        assert self.ended
        assert [set(section) & {":status", "grpc-status"} for section in self.sections] == [
            {":status"},
            {"grpc-status"},
        ]
        assert (self.status, self.grpc_status) == ("200", 0)
        flag, size = struct.unpack(">BI", self.data[:5])
        assert (flag, size) == (0, len(self.data) - 5)
        got = arrays(pb.ModelInferResponse.FromString(self.data[5:]))
        assert_same_bits(got["y"], GOOD["linear"].answer["y"])


class Peer:
    """A connection; a context manager that closes it."""

    def __init__(self, port: int, *, greet: bool = True) -> None:
        """Connect, and send the preface and SETTINGS unless greet is False."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames: list[Frame] = []
        """All frames received."""
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.closed = False
        """Whether the server closed the connection."""
        self.goaway: GoAwayFrame | None = None
        self._decoder = hpack.Decoder()
        self._block = b""
        self._received = b""
        if greet:
            self.send(PREFACE + settings())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; those that a server no longer reads are lost, as for any client."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def next(self) -> Frame | None:
        """Read a frame; None at the end of the connection."""
        head = self._read(9)
        if head is None:
            return None
        assert len(head) == 9, f"the connection ended inside a frame's header: {head!r}"
        read, size = Frame.parse_frame_header(memoryview(head), strict=False)
        body = self._read(size) if size else b""
        assert body is not None, "the connection ended inside a frame"
        assert len(body) == size, "the connection ended inside a frame"
        read.parse_body(memoryview(body))
        self.frames.append(read)
        self._note(read)
        return read

    def until(self, found: Callable[[], bool]) -> None:
        """Read until a condition is true; fails if the connection ends before."""
        while not found():
            assert self.next() is not None, f"the connection ended; before it came {self.frames}"

    def answer(self, stream_id: int) -> Answer:
        """Read until a stream is over."""
        answer = self.answers[stream_id]
        self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    def end(self) -> None:
        """Read to the end of the connection."""
        while self.next() is not None:
            pass
        assert self.closed

    def _read(self, size: int) -> bytes | None:
        while len(self._received) < size:
            try:
                more = self.socket.recv(2**16)
            except ConnectionResetError:
                more = b""
            if not more:
                self.closed = True
                return self._received or None
            self._received += more
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _note(self, read: Frame) -> None:
        match read:
            case SettingsFrame() if "ACK" not in read.flags:
                self.send(frame(SETTINGS, ACK, 0))
            case PingFrame() if "ACK" not in read.flags:
                self.send(PingFrame(0, read.opaque_data, flags=["ACK"]).serialize())
            case HeadersFrame() | ContinuationFrame():
                self._block += read.data
                if "END_HEADERS" in read.flags:
                    block, self._block = self._block, b""
                    section = {str(k): str(v) for k, v in self._decoder.decode(block)}
                    self.answers[read.stream_id].sections.append(section)
            case DataFrame():
                self.answers[read.stream_id].data += read.data
            case RstStreamFrame():
                self.answers[read.stream_id].reset = read.error_code
            case GoAwayFrame():
                self.goaway = read
        if "END_STREAM" in read.flags:
            self.answers[read.stream_id].ended = True
