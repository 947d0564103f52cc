"""Domain errors as grpcio's contexts take them."""

from typing import NoReturn

import grpc
from grpc_status import rpc_status

from forwardpass.server.errors import ServingError
from forwardpass.server.origin import REQUEST_ID
from forwardpass.server.transport.status import outcome

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def abort(context: grpc.ServicerContext, error: ServingError, request_id: str = "") -> NoReturn:
    """End the call with the error's status code, its text and its violations.

    request_id goes back with it, if there is one.
    """
    trailers = ((REQUEST_ID, request_id),) if request_id else ()
    end = outcome(error)
    if end.details is None:
        context.set_trailing_metadata(trailers)
        context.abort(_CODES[end.code], end.text)
    whole = rpc_status.to_status(end.details)
    if trailers:
        whole = whole._replace(  # type: ignore[attr-defined]  # a named tuple
            trailing_metadata=(*whole.trailing_metadata, *trailers)
        )
    context.abort_with_status(whole)
