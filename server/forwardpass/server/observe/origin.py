"""Where a call comes from, for logs and traces."""

import random
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

REQUEST_ID = "x-request-id"
_TRACEPARENT = "traceparent"
_TRACESTATE = "tracestate"

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""A valid request id: it cannot break a log line in two."""


class Origin(NamedTuple):
    """The data of a call beside its message."""

    request_id: str = ""
    """Id to return, from the caller or generated; empty if it is not needed."""
    peer: str = ""
    traceparent: str = ""
    """The parent span in the format of W3C Trace Context; empty without one."""
    tracestate: str = ""


NOWHERE = Origin()


def origin_of(
    metadata: Iterable[tuple[str, str | bytes]],
    peer: Callable[[], str],
    *,
    observed: bool,
    audited: bool = False,
) -> Origin:
    """Return the origin of a call.

    observed: Whether calls are logged or traced; if not, only a sent request id is needed.
    audited: Whether the caller may be refused, so that its address is needed too.
    """
    given: dict[str, str | bytes] = {}
    for key, value in metadata:
        # The first of several with one name counts, on both transports.
        given.setdefault(key, value)
    asked = given.get(REQUEST_ID)
    request_id = asked if isinstance(asked, str) and _REQUEST_ID.fullmatch(asked) else ""
    if observed:
        # Not a secret: it only has to differ between calls.
        request_id = request_id or f"{random.getrandbits(64):016x}"
        traceparent, tracestate = (str(given.get(key, "")) for key in (_TRACEPARENT, _TRACESTATE))
        return Origin(request_id, peer(), traceparent, tracestate)
    if audited:
        return Origin(request_id, peer())
    return Origin(request_id) if request_id else NOWHERE
