"""A domain error as gRPC sends it: a status code, a text, and details of google.rpc.

The details are BadRequest for what is wrong with a request, and RetryInfo for when to come back.
"""

import math
from typing import NamedTuple

from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from forwardpass.server.errors import STATUS, ServingError, Status

_MAX_TEXT_BYTES = 1000
"""Maximum size of an error's text, in bytes: it is sent up to three times, encoded, within
8 KiB of trailers."""
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer that says when to try again, in milliseconds (gRFC A6)."""


class Outcome(NamedTuple):
    """How a failed call ends."""

    code: Status
    text: str
    details: status_pb2.Status | None = None
    """The same with the violations and the time to come back, if there are any."""
    pushback_ms: int | None = None
    """When to try again, in milliseconds, for the trailer PUSHBACK."""


def outcome(error: ServingError) -> Outcome:
    """Return the error's status code, its text, its violations and when to come back."""
    code, text = STATUS[type(error)], _cut(str(error))
    if not error.violations and error.retry_s is None:
        return Outcome(code, text)
    status = status_pb2.Status(code=code, message=text)
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(violation.field), description=_cut(violation.description)
            )
            for violation in error.violations
        ]
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_s is None:
        return Outcome(code, text, status)
    pushback_ms = max(1, math.ceil(error.retry_s * 1000))
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(pushback_ms)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return Outcome(code, text, status, pushback_ms)


def _cut(text: str) -> str:
    """Cut a text, which may quote the caller, to what a trailer can carry."""
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_TEXT_BYTES:
        return text
    return data[:_MAX_TEXT_BYTES].decode("utf-8", "ignore") + "..."
