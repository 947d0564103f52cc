"""When a server that has no room wants to be called again: read from a call's trailing metadata."""

from collections.abc import Iterable, Iterator

from forwardpass.proto.varint import read_varint

_PUSHBACK = "grpc-retry-pushback-ms"
"""gRFC A6; a negative number, or none that can be read, says not to come back."""
_DETAILS = "grpc-status-details-bin"
_RETRY_INFO = b"/google.rpc.RetryInfo"

NEVER = -1.0


def comeback_s(trailers: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return after how many seconds; NEVER, or None if the server does not say.

    The pushback counts before the RetryInfo of google.rpc.
    """
    # Pair by pair: the Metadata of older versions of grpc.aio has keys that are no keys to `dict`.
    found = {key: value for key, value in trailers}  # noqa: C416
    if _PUSHBACK in found:
        try:
            pushback_ms = int(found[_PUSHBACK])
        except ValueError:
            return NEVER
        return pushback_ms / 1000 if pushback_ms >= 0 else NEVER
    details = found.get(_DETAILS)
    if not isinstance(details, bytes) or _RETRY_INFO not in details:
        return None
    try:
        return _retry_delay_s(details)
    except (IndexError, ValueError):
        return None


def _retry_delay_s(status: bytes) -> float | None:
    """Read the delay from a google.rpc.Status, whose classes are no dependency of the client."""
    for number, detail in _fields(status):
        if number != 3 or not isinstance(detail, bytes):
            continue
        any_ = dict(_fields(detail))
        type_url, value = any_.get(1), any_.get(2)
        if isinstance(type_url, bytes) and type_url.endswith(_RETRY_INFO):
            delay = dict(_fields(value if isinstance(value, bytes) else b"")).get(1)
            duration = dict(_fields(delay if isinstance(delay, bytes) else b""))
            seconds, nanos = (duration.get(field, 0) for field in (1, 2))
            if isinstance(seconds, int) and isinstance(nanos, int):
                return seconds + nanos / 1e9
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of a message's fields; raises IndexError or ValueError."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at, len(message))
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = read_varint(message, at, len(message))
            yield number, value
            continue
        if kind == 2:
            size, at = read_varint(message, at, len(message))
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise IndexError
        yield number, message[at : at + size]
        at += size
