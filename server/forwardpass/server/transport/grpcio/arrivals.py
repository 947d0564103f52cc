"""The caller and the origin of a call on grpcio, from its metadata."""

import grpc

from forwardpass.proto import priority
from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.caller import ANYONE, Caller
from forwardpass.server.audit import Denials
from forwardpass.server.errors import ServingError, UnauthenticatedError
from forwardpass.server.observe.origin import Origin, origin_of
from forwardpass.server.transport.grpcio.backlog import Metadata

_AUTHORIZATION = "authorization"


class ContextArrivals:
    """Returns who makes a call, and where it comes from."""

    def __init__(self, access: Access, denials: Denials, *, observed: bool) -> None:
        """Prepare; observed: whether calls are logged or traced."""
        self._access = access
        self._denials = denials
        self._observed = observed

    def origin(self, context: grpc.ServicerContext) -> Origin:
        """Return where the call comes from."""
        return origin_of(
            context.invocation_metadata(),
            context.peer,
            observed=self._observed,
            audited=self._access.required,
        )

    def known(self, metadata: Metadata) -> Caller | None:
        """Return the caller; None if only its certificate can tell.

        Raises UnauthenticatedError.
        """
        if not self._access.required:
            return ANYONE
        for key, value in metadata:
            if key == _AUTHORIZATION:
                return self._access.caller(str(value))
        return None

    def is_batch(self, metadata: Metadata) -> bool:
        """Return whether the metadata say that the class of the call is batch."""
        return priority.METADATA in metadata

    def caller(self, context: grpc.ServicerContext) -> Caller:
        """Return the caller; raises UnauthenticatedError."""
        if not self._access.required:
            return ANYONE
        try:
            for key, value in context.invocation_metadata():
                if key == _AUTHORIZATION:
                    return self._access.caller(str(value))
            return self._access.caller(None, context.peer_identities() or ())
        except UnauthenticatedError as error:
            self._denials.record(error, _name(context), context.peer())
            raise

    def refused(self, context: grpc.ServicerContext, error: ServingError) -> None:
        """Record who was not authenticated by its metadata."""
        if isinstance(error, UnauthenticatedError):
            self._denials.record(error, _name(context), context.peer())

    def at(self, context: grpc.ServicerContext, caller: Caller) -> Caller:
        """Return a caller with its address, and its certificate's name if it has no other."""
        return caller.at(context.peer(), _name(context))


def _name(context: grpc.ServicerContext) -> str:
    """Return the name in the caller's certificate; empty without one."""
    return next(iter(context.peer_identities() or ()), b"").decode("utf-8", "replace")
