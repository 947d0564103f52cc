"""A domain error as gRPC sends it: a status code, a text, and google.rpc.BadRequest."""

from dataclasses import dataclass

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from forwardpass.server.errors import STATUS, ServingError

_MAX_TEXT_BYTES = 1000
"""Of an error's text: it travels up to three times, encoded, within 8 KiB of trailers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ends that is not answered."""

    code: int
    """gRPC's public number."""
    text: str
    details: status_pb2.Status | None = None
    """The same with the violations, where there are any."""


def outcome(error: ServingError) -> Outcome:
    """Return the error's status code, its text and its violations."""
    code, text = int(STATUS[type(error)]), _cut(str(error))
    if not error.violations:
        return Outcome(code, text)
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=_cut(violation.field), description=_cut(violation.description)
                )
                for violation in error.violations
            ]
        )
    )
    return Outcome(code, text, status_pb2.Status(code=code, message=text, details=[detail]))


def _cut(text: str) -> str:
    """Keep a text that quotes its caller within what a trailer can carry."""
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_TEXT_BYTES:
        return text
    return data[:_MAX_TEXT_BYTES].decode("utf-8", "ignore") + "..."
