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
    given: dict[str, str | bytes] = {}
    for key, value in metadata:
        # Of several of one name the first counts, whichever transport it came by.
        given.setdefault(key, value)
    asked = given.get(REQUEST_ID)
    request_id = asked if isinstance(asked, str) and _REQUEST_ID.fullmatch(asked) else ""
    if observed:
        # Not a secret: it only has to tell calls apart.
        request_id = request_id or f"{random.getrandbits(64):016x}"
        traceparent, tracestate = (str(given.get(key, "")) for key in (_TRACEPARENT, _TRACESTATE))
        return Origin(request_id, peer(), traceparent, tracestate)
    return Origin(request_id) if request_id else NOWHERE
