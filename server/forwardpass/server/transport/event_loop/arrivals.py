"""The caller and the origin of a call, from its fields and its connection."""

from collections.abc import Mapping
from typing import Any, Protocol

from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.caller import ANYONE, Caller
from forwardpass.server.errors import ServingError, UnauthenticatedError
from forwardpass.server.observe.origin import NOWHERE, Origin, origin_of
from forwardpass.server.rpc.service import Service

_AUTHORIZATION = b"authorization"


def written(name: Any) -> str:
    """Return the address of a socket as gRPC writes it."""
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


class Sent(Protocol):
    """A request as read from its fields."""

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        """The fields; the first of each name."""

    @property
    def has_id(self) -> bool:
        """Whether it carries a request id, which has to be returned."""

    origin: Origin | None
    """The origin of its calls, once known and if it is the same for all."""


class Peer:
    """The other end of a connection."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __str__(self) -> str:
        return written(self._transport.get_extra_info("peername"))

    def identities(self) -> list[bytes]:
        """Return the names in its certificate: the alternative names, or else the common name."""
        certificate = self._transport.get_extra_info("peercert") or {}
        names = [value.encode() for _, value in certificate.get("subjectAltName", ())]
        if names:
            return names
        subject = [pair for part in certificate.get("subject", ()) for pair in part]
        return [value.encode() for key, value in subject if key == "commonName"]

    @property
    def name(self) -> str:
        """The name in its certificate; empty without one."""
        return next(iter(self.identities()), b"").decode()


class RequestArrivals:
    """Returns who makes a call, and where it comes from, for all connections."""

    def __init__(self, access: Access, service: Service) -> None:
        self._access = access
        self._service = service
        self.silent = not (access.required or service.observed)
        """Whether caller and origin are not needed for a call without a request id."""

    def caller(self, request: Sent, peer: Peer) -> Caller:
        """Return the caller; raises UnauthenticatedError."""
        if not self._access.required:
            return ANYONE
        authorization = request.fields.get(_AUTHORIZATION)
        try:
            if authorization is not None:
                return self._access.caller(authorization.decode("utf-8", "replace"))
            return self._access.caller(None, peer.identities())
        except UnauthenticatedError as error:
            self.denied(error, peer.name, peer)
            raise

    def audited(self, request: Sent, peer: Peer) -> Caller:
        """Return the caller with its address, and its certificate's name if it has no other.

        Raises UnauthenticatedError.
        """
        return self.caller(request, peer).at(str(peer), peer.name)

    def denied(self, error: ServingError, caller: str, peer: Peer | str) -> None:
        """Record a caller that is refused; other errors are ignored."""
        self._service.denials.record(error, caller, str(peer))

    def origin(self, request: Sent, peer: Peer) -> Origin:
        """Return where a call comes from."""
        observed = self._service.observed
        audited = self._access.required
        if not observed and not audited and not request.has_id:
            return NOWHERE
        if request.origin is not None:
            return request.origin
        metadata = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in request.fields.items()
        ]
        origin = origin_of(metadata, lambda: str(peer), observed=observed, audited=audited)
        if not observed:
            # An observer needs an id of its own for each call.
            request.origin = origin
        return origin

    def refused(self, error: ServingError, origin: Origin) -> None:
        """Report a refused ModelInfer call."""
        self._service.refused(error, origin)

    def shed(self, error: ServingError) -> None:
        """Report a refused call of another method, if it was shed."""
        self._service.refusals.shed(error)
