"""Where a call comes from, as far as logs and traces want to know."""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

REQUEST_ID = "x-request-id"
_TRACEPARENT = "traceparent"
_TRACESTATE = "tracestate"

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""What is taken as an id: nothing that could break a line of a log into two."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a call brought along beside its message."""

    request_id: str = ""
    """The caller's own or one made here, to be sent back; empty: neither asked for nor needed."""
    peer: str = ""
    traceparent: str = ""
    """Of the span that the call is a part of, as W3C Trace Context has it."""
    tracestate: str = ""


NOWHERE = Origin()


def origin_of(
    metadata: Iterable[tuple[str, str | bytes]], peer: Callable[[], str], *, observed: bool
) -> Origin:
    """Return where a call comes from.

    observed: Whether somebody will look at more than a request id that has to go back.
    """
    request_id = traceparent = tracestate = ""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            request_id = value
        elif key == _TRACEPARENT:
            traceparent = str(value)
        elif key == _TRACESTATE:
            tracestate = str(value)
    if observed:
        # Not a secret: it only has to tell calls apart.
        request_id = request_id or f"{random.getrandbits(64):016x}"
        return Origin(request_id, peer(), traceparent, tracestate)
    return Origin(request_id) if request_id else NOWHERE
