"""The transports that the server's tests run over."""

from collections.abc import Iterator
from contextlib import contextmanager

from forwardpass.server.config import Config, Transport


def default_transport() -> Transport:
    """What a Config has that names none."""
    defaults = Config.__init__.__kwdefaults__
    transport: Transport = defaults["transport"]
    return transport


@contextmanager
def as_default(transport: Transport) -> Iterator[Transport]:
    """Have every Config that names no transport be of this one: tests name what they are about."""
    defaults = Config.__init__.__kwdefaults__
    before = defaults["transport"]
    defaults["transport"] = transport
    try:
        yield transport
    finally:
        defaults["transport"] = before
