"""A client that speaks HTTP/2's frames over a socket, right or wrong."""

import socket
from collections.abc import Callable

from forwardpass.server.app import Server
from support.http2 import Frame, hello, message, read_frames
from support.process import ServerProcess
from support.served import GOOD


class Raw:
    """A client that speaks frames; close it."""

    def __init__(
        self, server: Server | ServerProcess, settings: bytes = b"", receive_bytes: int = 0
    ) -> None:
        """receive_bytes: what the socket holds at most of what is not read; 0: the default."""
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", server.port))
        self._rest = b""
        self.socket.sendall(hello(settings))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def read_until(self, done: Callable[[Frame], bool]) -> list[Frame]:
        """Read frames up to one; raises EOFError if the server closes before."""
        frames: list[Frame] = []
        while True:
            found = read_frames(self._rest)
            for each in found:
                self._rest = self._rest[9 + len(each.payload) :]
                frames.append(each)
                if done(each):
                    return frames
            data = self.socket.recv(2**18)
            if not data:
                raise EOFError(frames)
            self._rest += data

    def close(self) -> None:
        self.socket.close()


def end_of(stream_id: int) -> Callable[[Frame], bool]:
    return lambda each: each.stream_id == stream_id and bool(each.flags & 1) and each.kind < 2


def linear() -> bytes:
    """A call of the model of that name, as gRPC frames it."""
    return message(GOOD["linear"].request().SerializeToString())
