"""Domain errors as grpcio's contexts take them."""

from typing import NoReturn

import grpc
from grpc_status import rpc_status

from forwardpass.server.errors import ServingError
from forwardpass.server.observe.origin import REQUEST_ID
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.status import PUSHBACK, outcome

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def abort(
    context: grpc.ServicerContext, error: ServingError | BadMessageError, request_id: str = ""
) -> NoReturn:
    """End the call with the error's status code, its text and its violations.

    request_id is returned with it, if there is one.
    """
    end = error.outcome if isinstance(error, BadMessageError) else outcome(error)
    trailers: tuple[tuple[str, str], ...] = ((REQUEST_ID, request_id),) if request_id else ()
    if end.pushback_ms is not None:
        trailers += ((PUSHBACK, str(end.pushback_ms)),)
    if end.details is None:
        context.set_trailing_metadata(trailers)
        context.abort(_CODES[end.code], end.text)
    whole = rpc_status.to_status(end.details)
    if trailers:
        whole = whole._replace(  # type: ignore[attr-defined]  # a named tuple
            trailing_metadata=(*whole.trailing_metadata, *trailers)
        )
    context.abort_with_status(whole)
