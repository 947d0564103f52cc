"""Domain errors as gRPC has them: a status code, a text, and google.rpc.BadRequest."""

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from forwardpass.server.errors import STATUS, ServingError
from forwardpass.server.origin import REQUEST_ID

_MAX_TEXT_BYTES = 1000
"""Of an error's text: it travels up to three times, encoded, within 8 KiB of trailers."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def abort(context: grpc.ServicerContext, error: ServingError, request_id: str = "") -> NoReturn:
    """End the call with the error's status code, its text and its violations.

    request_id goes back with it, if there is one.
    """
    trailers = ((REQUEST_ID, request_id),) if request_id else ()
    status = status_pb2.Status(code=STATUS[type(error)], message=_cut(str(error)))
    if not error.violations:
        context.set_trailing_metadata(trailers)
        context.abort(_CODES[status.code], status.message)
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
    status.details.append(detail)
    whole = rpc_status.to_status(status)
    if trailers:
        whole = whole._replace(  # type: ignore[attr-defined]  # a named tuple
            trailing_metadata=(*whole.trailing_metadata, *trailers)
        )
    context.abort_with_status(whole)


def _cut(text: str) -> str:
    """Keep a text that quotes its caller within what a trailer can carry."""
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_TEXT_BYTES:
        return text
    return data[:_MAX_TEXT_BYTES].decode("utf-8", "ignore") + "..."
