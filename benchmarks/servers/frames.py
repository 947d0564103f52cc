"""HTTP/2's frames and nothing else: what load, sockets and the machine allow any server.

Requests are found by the frames' heads; no field is decoded, no message read, and every answer is
an empty one. One thread.

Usage: python -m benchmarks.servers.frames [PORT]
"""

import select
import socket
import sys

from hpack import Encoder, NeverIndexedHeaderTuple

from benchmarks.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEAD_BYTES,
    HEADERS,
    PING,
    REFILL_BYTES,
    SETTINGS,
    WIDE,
    WIDEST_WINDOW,
    around_numbers,
    frame,
    window_update,
)
from benchmarks.server_process import READY

_PREFACE_BYTES = 24
_RECEIVED_BYTES = 2**20
_WELCOME = frame(SETTINGS, 0, 0, WIDE) + window_update(WIDEST_WINDOW - FIRST_WINDOW)


def _block(*fields: tuple[str, str]) -> bytes:
    """Return fields, of which no table keeps any."""
    return Encoder().encode([NeverIndexedHeaderTuple(*field) for field in fields])


_ANSWER = around_numbers(
    frame(HEADERS, END_HEADERS, 0, _block((":status", "200"), ("content-type", "application/grpc")))
    + frame(DATA, 0, 0, bytes(5))
    + frame(HEADERS, END_HEADERS | END_STREAM, 0, _block(("grpc-status", "0")))
)
"""To every call: an empty message."""


class _Line:
    """A connection."""

    def __init__(self, line: socket.socket) -> None:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = line
        self._incoming = b""
        self._preface = True
        self._received = 0
        line.sendall(_WELCOME)

    def read(self) -> bool:
        """Answer what came; return whether the connection is still there."""
        data = self.socket.recv(_RECEIVED_BYTES)
        incoming, at = self._incoming + data, 0
        if self._preface and len(incoming) >= _PREFACE_BYTES:
            self._preface, at = False, _PREFACE_BYTES
        outgoing = bytearray()
        while not self._preface and len(incoming) - at >= HEAD_BYTES:
            size = int.from_bytes(incoming[at : at + 3], "big")
            end = at + HEAD_BYTES + size
            if len(incoming) < end:
                break
            kind, flags = incoming[at + 3], incoming[at + 4]
            if kind == DATA:
                self._received += size
                if flags & END_STREAM:
                    outgoing += incoming[at + 5 : at + HEAD_BYTES].join(_ANSWER)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                told = incoming[at + HEAD_BYTES : end] if kind == PING else b""
                outgoing += frame(kind, ACK, 0, told)
            at = end
        self._incoming = incoming[at:]
        if self._received > REFILL_BYTES:
            outgoing += window_update(self._received)
            self._received = 0
        if outgoing:
            self.socket.sendall(outgoing)
        return bool(data)


def main() -> None:
    """Serve until a signal ends the process."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listening:
        print(f"{READY}127.0.0.1:{listening.getsockname()[1]}", flush=True)
        lines: dict[int, _Line] = {}
        readable = select.poll()
        readable.register(listening, select.POLLIN)
        while True:
            for number, _ in readable.poll():
                if number == listening.fileno():
                    line = _Line(listening.accept()[0])
                    lines[line.socket.fileno()] = line
                    readable.register(line.socket, select.POLLIN)
                    continue
                try:
                    there = lines[number].read()
                except OSError:
                    there = False
                if not there:
                    readable.unregister(number)
                    lines.pop(number).socket.close()


if __name__ == "__main__":
    main()
