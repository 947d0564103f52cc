"""Everything that can go wrong with a call, one exception a cause.

`ERRORS` maps the status codes of gRPC to them; `from_rpc_error` is the one place that does it.
"""

import grpc


class ClientError(Exception):
    """Base of every error of this package but wrong arguments of `Client` itself."""

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
        """What the call ended with; None where nothing was sent or the reply made no sense."""
        self.details = details
        """The server's own words where it answered; else ours, without target and model."""


class InvalidInputError(ClientError, ValueError):
    """The input does not fit the model: found before sending (code None) or by the server."""


class ModelNotFoundError(ClientError):
    """The server has no such model, or not that version of it."""


class ModelUnavailableError(ClientError):
    """The server has the model's file and cannot serve it; the details say why."""


class DeadlineExceededError(ClientError, TimeoutError):
    """No answer within `timeout_s`; the server may have computed it or not."""


class ServerUnavailableError(ClientError, ConnectionError):
    """Nothing answers at the target, TLS failed, or the server is going away: worth a retry."""


class OverloadedError(ClientError):
    """The server has more to do than it takes: worth a retry, later."""


class TooLargeError(OverloadedError):
    """The call is above a limit, the server's or that of a channel option: send fewer rows."""


class PermissionDeniedError(ClientError):
    """The server knows the caller and refuses."""


class UnauthenticatedError(ClientError):
    """The server does not know the caller, or the client's token function gave no token."""


class UnimplementedError(ClientError):
    """The server does not do this; often the port is that of another kind of server."""


class CallCancelledError(ClientError):
    """The call was cancelled, as by `close` in another thread or task."""


class ServerError(ClientError):
    """The server failed; its log knows more."""


class ProtocolError(ClientError):
    """The server answered something that is no answer to the question."""


class ClientClosedError(ClientError):
    """The client was closed, or belongs to another process or event loop."""


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
"""The one table from status code to cause."""

_CONNECT = "check that the server runs there, and that both use TLS or neither"

_FIXES: dict[str, str] = {
    "Deadline Exceeded": "pass a longer timeout_s, or send fewer rows a call",
    "failed to connect": _CONNECT,
    "connections to all backends failing": _CONNECT,
}
"""What to do about texts of gRPC itself, which do not say: by how they begin."""

_UNAUTHENTICATED = "Getting metadata from plugin failed"
"""How gRPC says that a token function failed, with the status of a server that is away."""

_TOO_LARGE = ("larger than max", "above the server's limit", "exceeds maximum size")
"""How our server, and gRPC's own libraries, say that a call is too large, not too many.

The status code is the same, and only the one is worth a retry.
"""


def from_rpc_error(error: grpc.RpcError, *, target: str, model: str = "") -> ClientError:
    """Return the exception of ours that says what gRPC's said: `raise ... from error`."""
    code = error.code()
    details = error.details() or f"{code.name} without a text"
    for beginning, fix in _FIXES.items():
        if details.startswith(beginning):
            details = f"{details}; {fix}"
    cause = ERRORS[code]
    if cause is OverloadedError and any(words in details for words in _TOO_LARGE):
        cause = TooLargeError
    if cause is ServerUnavailableError and details.startswith(_UNAUTHENTICATED):
        cause = UnauthenticatedError
    return cause(details, code=code, target=target, model=model)
