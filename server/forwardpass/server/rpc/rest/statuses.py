"""gRPC's status codes as HTTP's."""

from collections.abc import Mapping

from forwardpass.server.errors import (
    STATUS,
    JsonTooLargeError,
    MessageTooLargeError,
    NamesTooLargeError,
    PageRowsTooLargeError,
    ServingError,
    Status,
    TooManyRowsError,
)

HTTP_STATUS: Mapping[Status, int] = {
    Status.OK: 200,
    Status.CANCELLED: 499,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.UNAUTHENTICATED: 401,
}
"""The one table, as google.rpc.Code has it."""
TOO_LARGE = 413
_TOO_LARGE = (
    JsonTooLargeError,
    MessageTooLargeError,
    NamesTooLargeError,
    PageRowsTooLargeError,
    TooManyRowsError,
)
"""RESOURCE_EXHAUSTED, which no other time helps against."""


def http_status(error: ServingError) -> int:
    """Return the status of an error."""
    return TOO_LARGE if isinstance(error, _TOO_LARGE) else HTTP_STATUS[STATUS[type(error)]]
