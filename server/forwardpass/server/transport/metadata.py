"""What a call on grpcio brings along beside its message."""

import grpc

from forwardpass.server.access import Access
from forwardpass.server.caller import ANYONE, Caller
from forwardpass.server.origin import Origin, origin_of

_AUTHORIZATION = "authorization"


class Arrivals:
    """Says of a call who makes it, and where it comes from."""

    def __init__(self, access: Access, *, observed: bool) -> None:
        """Prepare; observed: whether calls are logged or traced."""
        self._access = access
        self._observed = observed

    def origin(self, context: grpc.ServicerContext) -> Origin:
        """Return where the call comes from."""
        return origin_of(context.invocation_metadata(), context.peer, observed=self._observed)

    def caller(self, context: grpc.ServicerContext) -> Caller:
        """Return who calls; raises UnauthenticatedError."""
        if not self._access.required:
            return ANYONE
        for key, value in context.invocation_metadata():
            if key == _AUTHORIZATION:
                return self._access.caller(str(value))
        return self._access.caller(None, context.peer_identities() or ())
