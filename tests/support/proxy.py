"""A TCP proxy that breaks what passes through it, as networks do."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

_CHUNK = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on to a port of this machine; what it does may change while it runs."""

    def __init__(self, port: int) -> None:
        self.to_port = port
        self.passing = threading.Event()
        """While cleared, replies are held back."""
        self.passing.set()
        self._breaks_after: int | None = None
        self._reset = False
        self.breaks = 0
        """Connections that were broken so far."""
        self.asked_bytes = 0
        """Bytes that passed from clients to servers so far."""
        self._ended = False
        self._silent: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def break_after(self, size: int, *, reset: bool) -> None:
        """Break one connection once so many bytes of replies have passed: reset, or just close."""
        with self._lock:
            self._reset = reset
            self._breaks_after = size

    def silence(self) -> None:
        """Discard all further bytes of the existing connections, and close none."""
        with self._lock:
            self._silent.update(self._sockets)

    def cut(self) -> None:
        """Close all connections, and every new one at once, until `to_port` is a port again."""
        self.to_port = 0
        with self._lock:
            for each in self._sockets:
                _close(each)
            self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.passing.set()
        with self._lock:
            self._ended = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._sockets):
            _close(each)
        for thread in self._threads:
            thread.join(20)

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.to_port), timeout=10)
            except OSError:
                _close(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets += [client, server]
                if self._ended:
                    _close(client)
                    _close(server)
            self._run(self._pass_on, client, server, False)
            self._run(self._pass_on, server, client, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(_CHUNK):
                if source in self._silent:
                    continue
                if replies:
                    self.passing.wait()
                    left = self._left(len(data))
                    if left is not None:
                        sink.sendall(data[:left])
                        if self._reset:
                            sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                        break
                else:
                    self.asked_bytes += len(data)
                sink.sendall(data)
        except OSError:
            pass
        _close(sink)
        _close(source)

    def _left(self, size: int) -> int | None:
        """Count bytes of a reply; return how many of them pass before the break, if it is now."""
        with self._lock:
            if self._breaks_after is None:
                return None
            left, self._breaks_after = self._breaks_after, self._breaks_after - size
            if left > size:
                return None
            self._breaks_after = None
            self.breaks += 1
            return left


def _close(each: socket.socket) -> None:
    with suppress(OSError):
        resets = each.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == _RESET_ON_CLOSE
        # Closing alone would not wake the thread that waits for data of it, and until then the
        # connection stays. Shut for writing, too, it would end in order rather than be reset.
        each.shutdown(socket.SHUT_RD if resets else socket.SHUT_RDWR)
    each.close()
