"""Names by which HTTP requests may call this server: protection against DNS rebinding.

A page of a stranger may have its own name lead to 127.0.0.1. A browser takes what answers there for
that stranger's server and lets the page read it, but it sends the page's name in field Host.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Self

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_MAX_CHARS = 253
"""Maximum length of a name (RFC 1035, 2.3.4), in characters."""
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
_LOCAL = "localhost"


class HostNames(frozenset[str]):
    """Names of this server in lower case, which requests may carry beside addresses."""

    __slots__ = ()

    def __new__(cls, names: Iterable[str] = ()) -> Self:
        """Check the names; raises ValueError for one that a browser would not send."""
        return super().__new__(cls, map(_checked, (names,) if isinstance(names, str) else names))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read names that are separated by commas; raises ValueError."""
        return cls(filter(None, map(str.strip, text.split(","))))

    def allow(self, host: str) -> bool:
        """Whether a request with this Host, with or without a port, was meant for this server.

        An address is: only a name can be made to lead here. So are localhost and what ends in it.
        """
        found = _HOST.fullmatch(host.strip())
        if found is None:
            return False
        name = _plain(found[1])
        return name in self or name == _LOCAL or name.endswith("." + _LOCAL) or _is_address(name)

    def __str__(self) -> str:
        return ",".join(sorted(self))


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == _LOCAL


def _is_address(host: str) -> bool:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return isinstance(ip_address(bare), IPv6Address) == (bare != host)
    except ValueError:
        return False


def _plain(name: str) -> str:
    """Return a name without the dot that may end it, in lower case."""
    return name.lower().removesuffix(".")


def _checked(name: str) -> str:
    plain = _plain(name)
    if len(plain) > _MAX_CHARS or _NAME.fullmatch(plain) is None:
        raise ValueError(
            f"http_host_names: expected names as in ward.example, without scheme, port or "
            f"wildcard, got {name!r}"
        )
    return plain
