"""Everything that can go wrong with a call, with an exception for each cause.

`ERRORS` maps the status codes of gRPC to them; only `from_rpc_error` uses it for that.
"""

from typing import Any

import grpc

from forwardpass.client._comeback import comeback_s
from forwardpass.proto.pickling import PicklableError


class ClientError(PicklableError):
    """Base of every error of this package except wrong arguments of `Client` itself."""

    def __init__(
        self,
        details: str,
        *,
        code: grpc.StatusCode | None = None,
        target: str = "",
        model: str = "",
    ) -> None:
        text = details if not model or repr(model) in details else f"model {model!r}: {details}"
        super().__init__(f"{target}: {text}" if target else text)
        self.code = code
        """The status code of the call; None if nothing was sent or the reply was invalid."""
        self.details = details
        """The server's text if it answered; else the client's, without target and model."""
        self.retry_s: float | None = None
        """When the server wants to be called again, in seconds from the error; None if it does
        not say, below 0 for never."""


class InvalidInputError(ClientError, ValueError):
    """The input does not fit the model: found before sending (code None) or by the server."""


class ModelNotFoundError(ClientError):
    """The server has no such model, or not that version of it."""


class ModelChangedError(ClientError):
    """The model was published again, under the same version, while the call was made."""


class ModelUnavailableError(ClientError):
    """The server has the model's file and cannot serve it; the details say why."""


class DeadlineExceededError(ClientError, TimeoutError):
    """There was no answer within `timeout_s`; the server may have computed it or not."""


class ServerUnavailableError(ClientError, ConnectionError):
    """Nothing answers at the target, TLS failed, or the server is stopping: worth a retry."""


class OverloadedError(ClientError):
    """The server has more calls waiting than it accepts: worth a retry, later."""


class TooLargeError(OverloadedError):
    """The call is above a limit, the server's or that of a channel option: send fewer rows."""


class PermissionDeniedError(ClientError):
    """The server knows the caller and rejects the call."""


class UnauthenticatedError(ClientError):
    """The server does not know the caller, or the client's token function returned no token."""


class UnimplementedError(ClientError):
    """The server does not have this method; often the port is that of another kind of server."""


class CallCancelledError(ClientError):
    """The call was cancelled, as by `close` in another thread or task."""


class ServerError(ClientError):
    """The server failed; its log has the details."""


class ProtocolError(ClientError):
    """The server's reply is not a valid answer to the request."""


class ClientClosedError(ClientError):
    """The client was closed, or belongs to another process or event loop."""


class ModelFileError(ClientError, ValueError):
    """`load` cannot run the file: there is none, it is damaged, or not an ONNX model."""


ERRORS: dict[grpc.StatusCode, type[ClientError]] = {
    # No error has this code; a peer that aborts with it breaks the protocol.
    grpc.StatusCode.OK: ProtocolError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ServerError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelUnavailableError,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
}
"""Status codes -> the error of their cause."""

_CONNECT = "check that the server runs there, and that both use TLS or neither"

_NOT_HTTP2 = ("Expected SETTINGS frame as the first frame", "Failed parsing HTTP/2")
"""Parts of gRPC's texts for an answer that is not HTTP/2, the second up to 1.80 at least."""
_OTHER_PORT = "that port does not speak gRPC: REST and metrics have ports of their own"

_FIXES: dict[str, str] = {
    "Deadline Exceeded": "pass a longer timeout_s, or send fewer rows a call",
    "failed to connect": _CONNECT,
    "connections to all backends failing": _CONNECT,
}
"""Beginnings of gRPC's own texts, which do not name a fix -> the fix."""

_UNAUTHENTICATED = "Getting metadata from plugin failed"
"""gRPC's text for a token function that failed; its status is that of an unreachable server."""

_CHANGED = "is another one by now"
"""Part of our server's text for a model that was published again; other servers and proxies abort
for other reasons."""

_TOO_LARGE = (
    "larger than max",
    "above the server's limit",
    "exceeds maximum size",
    "metadata size exceeds",
)
"""Parts of the texts of our server, and of gRPC's libraries, for a call that is too large.

The status code is that of too many calls, which are worth a retry; a call too large is not.
"""


def from_rpc_error(error: grpc.RpcError, *, target: str, model: str = "") -> ClientError:
    """Return our exception for one of gRPC's: `raise ... from error`."""
    code = error.code()
    details = error.details() or f"{code.name} without a text"
    for beginning, fix in _FIXES.items():
        if details.startswith(beginning):
            other = any(words in details for words in _NOT_HTTP2)
            details = f"{details}; {_OTHER_PORT if other else fix}"
    cause = ERRORS[code]
    if code is grpc.StatusCode.ABORTED and _CHANGED in details:
        cause = ModelChangedError
    if cause is OverloadedError and any(words in details for words in _TOO_LARGE):
        cause = TooLargeError
    if cause is ServerUnavailableError and details.startswith(_UNAUTHENTICATED):
        cause = UnauthenticatedError
    ours = cause(details, code=code, target=target, model=model)
    if isinstance(ours, OverloadedError | ServerUnavailableError):
        ours.retry_s = _retry_s(error)
    return ours


def _retry_s(error: grpc.RpcError) -> float | None:
    # An interceptor may raise an error of its own, with a code and no more.
    trailers: Any = getattr(error, "trailing_metadata", tuple)()
    return comeback_s(trailers or ())
