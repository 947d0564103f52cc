"""HTTP/2's frames and nothing else: what load, sockets and the machine allow any server.

Requests are found by the frames' heads; no field is decoded, no message read, and every answer is
an empty one. One thread.

Usage: python -m benchmarks.servers.frames [PORT]
"""

import select
import socket
import struct
import sys

from benchmarks.server_process import READY

_PREFACE_BYTES = 24
_DATA, _SETTINGS, _PING = 0, 4, 6
_END_STREAM = _ACK = 0x1
_INITIAL_WINDOW = 4
_OUR_WINDOW = 2**31 - 1
_REFILL_BYTES = 2**30
_RECEIVED_BYTES = 2**20

_WELCOME = (
    struct.pack(">I", 6)[1:] + b"\x04\0\0\0\0\0" + struct.pack(">HI", _INITIAL_WINDOW, _OUR_WINDOW)
)


def _window_update(increment: int) -> bytes:
    return b"\0\0\x04\x08\0\0\0\0\0" + increment.to_bytes(4, "big")


def _field(name: bytes, value: bytes) -> bytes:
    """Return a field that no table keeps (RFC 7541, section 6.2.2)."""
    return b"\0%c%b%c%b" % (len(name), name, len(value), value)


def _headers(block: bytes, flags: int) -> tuple[bytes, bytes]:
    """Return what precedes the stream's number, and what follows it."""
    return struct.pack(">I", len(block))[1:] + b"\x01%c" % flags, block


def _answer() -> list[bytes]:
    """Return the parts of an answer that the stream's number joins."""
    # 0x88 is ":status: 200" (RFC 7541, appendix A).
    head, fields = _headers(b"\x88" + _field(b"content-type", b"application/grpc"), 0x4)
    end, trailers = _headers(_field(b"grpc-status", b"0"), 0x5)
    return [head, fields + b"\0\0\x05\0\0", b"\0\0\0\0\0" + end, trailers]


class _Line:
    """A connection."""

    def __init__(self, line: socket.socket) -> None:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = line
        self._answer = _answer()
        self._incoming = b""
        self._preface = True
        self._received = 0
        line.sendall(_WELCOME + _window_update(_OUR_WINDOW - 65_535))

    def read(self) -> bool:
        """Answer what came; return whether the connection is still there."""
        data = self.socket.recv(_RECEIVED_BYTES)
        incoming, at = self._incoming + data, 0
        if self._preface and len(incoming) >= _PREFACE_BYTES:
            self._preface, at = False, _PREFACE_BYTES
        outgoing = bytearray()
        while not self._preface and len(incoming) - at >= 9:
            size = int.from_bytes(incoming[at : at + 3], "big")
            end = at + 9 + size
            if len(incoming) < end:
                break
            kind, flags = incoming[at + 3], incoming[at + 4]
            if kind == _DATA:
                self._received += size
                if flags & _END_STREAM:
                    outgoing += incoming[at + 5 : at + 9].join(self._answer)
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                told = incoming[at + 9 : end] if kind == _PING else b""
                outgoing += b"\0\0%c%c\x01\0\0\0\0" % (len(told), kind) + told
            at = end
        self._incoming = incoming[at:]
        if self._received > _REFILL_BYTES:
            outgoing += _window_update(self._received)
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
