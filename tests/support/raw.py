"""A client that speaks HTTP/2's frames over a socket, right or wrong."""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from struct import pack
from types import MappingProxyType
from typing import Any

import hpack
import numpy as np

from forwardpass.server.app import Server
from support.http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    REQUEST,
    RST_STREAM,
    Frame,
    block,
    frame,
    hello,
    message,
    read_frames,
    request,
)
from support.onnx_files import WIDTH
from support.process import ServerProcess
from support.served import GOOD
from support.wire import infer_request

NO_WINDOW = pack(">HI", 4, 0)
"""Settings of a client that takes nothing of an answer until it says so."""


class Raw:
    """A client that speaks frames; close it."""

    def __init__(
        self, server: Server | ServerProcess, settings: bytes = b"", receive_bytes: int = 0
    ) -> None:
        """receive_bytes: maximum unread bytes in the socket's buffer; 0: the default."""
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


def wide_call(mib: float) -> bytes:
    """A call of `onnx_files.wide` whose answer has so many MiB."""
    rows = np.ones((int(mib * 2**20) // (4 * WIDTH), 1), np.float32)
    return bytes(infer_request("wide", {"x": rows}).SerializeToString())


class Deaf(Raw):
    """A caller that reads nothing of its answer, since it opens no window for it."""

    def __init__(
        self,
        server: Any,
        body: bytes,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(server, NO_WINDOW)
        data = message(body)
        parts = [data[at : at + 2**14] for at in range(0, len(data), 2**14)]
        fields = block((dict(REQUEST) | dict(metadata)).items())
        self.send(
            request(1, None, fields), *(frame(DATA, part is parts[-1], 1, part) for part in parts)
        )

    def refusal(self) -> dict[str, str]:
        """Wait for the fields before the answer, or for an error; return the fields of an error."""
        *_, last = self.read_until(lambda each: each.kind == HEADERS)
        fields: Any = hpack.Decoder().decode(last.payload)
        return dict(fields) if last.flags & END_STREAM else {}

    def ended(self) -> bool:
        """Return whether the server has ended the call, which it does once."""
        with suppress(EOFError, ConnectionError):
            self.read_until(lambda each: each.kind == RST_STREAM)
        return True
