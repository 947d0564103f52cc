"""Where a server listens."""

import socket
from contextlib import suppress
from pathlib import Path

from forwardpass.server.config import Config

BACKLOG = 4096
_UNIX = "unix:"


class ListenError(Exception):
    """The address cannot be listened on."""


def unix_path(config: Config) -> Path | None:
    """Return the path of the socket in the file system to listen on; None: an address."""
    return Path(config.host[len(_UNIX) :]) if config.host.startswith(_UNIX) else None


def address(config: Config) -> str:
    """Return where to listen as text."""
    if unix_path(config) is not None:
        return config.host
    host = config.host.strip("[]")
    # An IPv6 address has colons of its own.
    return f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}"


def listen(config: Config) -> socket.socket:
    """Return a socket that listens; raises ListenError."""
    try:
        path = unix_path(config)
        if path is None:
            return _listen(config.host.strip("[]"), config.port)
        return _listen_at(path)
    except OSError as error:
        raise ListenError(f"cannot listen on {address(config)}: {error}") from error


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
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
    """Remove the socket that a server left which was killed; raises OSError if one answers."""
    if path.is_socket():
        if _answers(path):
            raise OSError("another server answers there")
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, suppress(OSError):
        caller.connect(str(path))
        return True
    return False
