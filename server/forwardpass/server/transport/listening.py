"""Where a server listens."""

import errno
import mmap
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from forwardpass.server.config import UNIX, Config

BACKLOG = 4096
_AWAY = 2**62
"""Connections of a process that does not accept."""
MAX_METADATA_BYTES = 2**14
"""Maximum size of a call's metadata, each name and value with 32 bytes more (RFC 7541, 4.1)."""
_OTHER_HOST = "choose an address of this machine, 0.0.0.0 or [::] for all of them"
_FIXES = {
    errno.EADDRINUSE: "choose another port, 0 for any that is free, or stop what listens there",
    errno.EACCES: "choose a port from 1024 on, as those below need a permission",
}
"""What to do, by the operating system's reason."""


class ListenError(Exception):
    """The address cannot be listened on."""


def unix_path(config: Config) -> Path | None:
    """Return the path of the Unix socket to listen on; None for a TCP address."""
    return Path(config.host[len(UNIX) :]) if config.host.startswith(UNIX) else None


def address(config: Config) -> str:
    """Return the address to listen on, as text."""
    return config.host if unix_path(config) is not None else _at(config.host, config.port)


def http_address(config: Config) -> str:
    """Return the address of HTTP/1.1, as text, of a server that has one."""
    return _at(config.host, config.http_port or 0)


def _at(host: str, port: int) -> str:
    host = host.strip("[]")
    # IPv6 addresses contain colons.
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(config: Config) -> list[socket.socket]:
    """Return sockets that listen, one for each address of the host; raises ListenError."""
    try:
        path = unix_path(config)
        if path is None:
            return _listen(config.host.strip("[]"), config.port)
        return [_listen_at(path)]
    # ValueError: the host is no name, as one with a label of more than 63 characters.
    except (OSError, ValueError) as error:
        raise refused(config, error) from error


def listen_for_http(config: Config) -> list[socket.socket]:
    """Return sockets that listen for HTTP/1.1; none if that is not asked for.

    Raises ListenError.
    """
    port = config.http_port
    if port is None:
        return []
    missing = [package for package in ("httptools", "orjson") if find_spec(package) is None]
    if missing:
        raise ListenError(
            f"HTTP/1.1 (http_port) needs {' and '.join(missing)}; install forwardpass[server]"
        )
    return listen(replace(config, port=port, http_port=None))


def refused(config: Config, error: OSError | ValueError) -> ListenError:
    """Return the error for an address that the operating system refuses, with the fix."""
    why, fix = str(error), _OTHER_HOST
    if isinstance(error, OSError):
        why, fix = error.strerror or why, _FIXES.get(error.errno or 0, fix)
    if unix_path(config) is not None:
        fix = "choose another path, in a folder where this user may write"
    return ListenError(f"cannot listen on {address(config)}: {why}; {fix}")


def why_not(config: Config) -> ListenError | None:
    """Return the error for an address on which grpcio could not listen, which does not say why.

    None if it is free by now.
    """
    try:
        listeners = listen(config)
    except ListenError as error:
        return error
    path = unix_path(config)
    if path is not None:
        path.unlink(missing_ok=True)
    for listener in listeners:
        listener.close()
    return None


class Balance:
    """How many connections each of several processes has, in memory that they share."""

    def __init__(self, processes: int) -> None:
        """Begin without connections; before the processes are forked."""
        self._memory = mmap.mmap(-1, 8 * processes)
        self._counts = memoryview(self._memory).cast("q")
        for number in range(processes):
            self.leave(number)

    def leave(self, number: int) -> None:
        """Leave a process out that does not accept."""
        self._counts[number] = _AWAY

    def has(self, number: int, connections: int) -> bool:
        """Note how many connections a process has; return whether none has fewer."""
        self._counts[number] = connections
        return connections <= min(self._counts)


class SharedListener(NamedTuple):
    """Sockets that several processes accept from."""

    sockets: Sequence[socket.socket]
    http: Sequence[socket.socket]
    """Those for HTTP/1.1; empty without."""
    balance: Balance
    number: int
    """Which of the processes this is."""

    def is_next(self, connections: int) -> bool:
        """Whether to accept, with so many connections, or leave it to one that has fewer."""
        return self.balance.has(self.number, connections)


def reserve(config: Config) -> socket.socket:
    """Return a socket that keeps a TCP port for several of this user's; raises ListenError.

    It does not listen. Those that do have to set SO_REUSEPORT before they bind.
    """
    host = config.host.strip("[]")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        reserved = socket.socket(family, kind, protocol)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Alone at first: two servers on one port would share its calls silently.
            reserved.bind(place)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:
            reserved.close()
            raise
    except (OSError, ValueError) as error:
        raise refused(config, error) from error
    return reserved


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on one port of all addresses of a host, as `localhost` has 127.0.0.1 and ::1.

    An address that this machine does not have is left out, unless it is the only one.
    """
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A file of hosts may have a line twice.
        for family, place in dict.fromkeys((each[0], each[4]) for each in found):
            # Port 0 is the one that the first address has got.
            taken = listeners[0].getsockname()[1] if listeners else port
            try:
                listeners.append(_listen_on(family, (place[0], taken, *place[2:])))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if missing is not None and not listeners:
            raise missing
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen_on(family: int, place: tuple[str | int, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # With `::` callers over IPv4 are answered, too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_at(path: Path) -> socket.socket:
    claim(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def claim(path: Path) -> None:
    """Remove the socket that a killed server left; raises OSError if a server answers there."""
    if path.is_socket():
        if _answers(path):
            raise OSError(errno.EADDRINUSE, "another server answers there")
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, suppress(OSError):
        caller.connect(str(path))
        return True
    return False
