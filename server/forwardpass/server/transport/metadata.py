"""What a call brings along beside its message."""

import grpc

from forwardpass.server.access import Access
from forwardpass.server.caller import ANYONE, Caller

_AUTHORIZATION = "authorization"


def caller_of(context: grpc.ServicerContext, access: Access) -> Caller:
    """Return who calls; raises UnauthenticatedError."""
    if not access.required:
        return ANYONE
    for key, value in context.invocation_metadata():
        if key == _AUTHORIZATION:
            return access.caller(str(value))
    return access.caller(None, context.peer_identities() or ())
