"""The transports that the server's tests run over."""

from collections.abc import Iterator
from contextlib import contextmanager

from forwardpass.server.config import Config, Transport


def default_transport() -> Transport:
    """Return the transport of a Config that names none."""
    defaults = Config.__init__.__kwdefaults__
    assert defaults is not None
    transport: Transport = defaults["transport"]
    return transport


@contextmanager
def as_default(transport: Transport) -> Iterator[Transport]:
    """Give every Config that names no transport this one: tests name only what they test."""
    defaults = Config.__init__.__kwdefaults__
    assert defaults is not None
    before = defaults["transport"]
    defaults["transport"] = transport
    try:
        yield transport
    finally:
        defaults["transport"] = before
