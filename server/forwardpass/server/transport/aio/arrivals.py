"""Who makes a call, and where it comes from."""

from typing import Any

from forwardpass.server.access import Access
from forwardpass.server.caller import ANYONE, Caller
from forwardpass.server.errors import ServingError
from forwardpass.server.origin import NOWHERE, Origin, origin_of
from forwardpass.server.service import Service
from forwardpass.server.transport.aio.requests import Request

_AUTHORIZATION = b"authorization"


class Peer:
    """The other end of a connection."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __str__(self) -> str:
        name = self._transport.get_extra_info("peername")
        if not isinstance(name, tuple):
            return "unix:"
        host, port = name[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def identities(self) -> list[bytes]:
        """Return what its certificate says of it: its other names, or else its common name."""
        certificate = self._transport.get_extra_info("peercert") or {}
        names = [value.encode() for _, value in certificate.get("subjectAltName", ())]
        if names:
            return names
        subject = [pair for part in certificate.get("subject", ()) for pair in part]
        return [value.encode() for key, value in subject if key == "commonName"]


class Arrivals:
    """Says it of each call, for all connections."""

    def __init__(self, access: Access, service: Service) -> None:
        self._access = access
        self._service = service
        self.silent = not (access.required or service.observed)
        """Whether nothing has to be asked of a call that says nothing of itself."""

    def caller(self, request: Request, peer: Peer) -> Caller:
        """Return who calls; raises UnauthenticatedError."""
        if not self._access.required:
            return ANYONE
        authorization = request.fields.get(_AUTHORIZATION)
        if authorization is not None:
            return self._access.caller(authorization.decode("utf-8", "replace"))
        return self._access.caller(None, peer.identities())

    def origin(self, request: Request, peer: Peer) -> Origin:
        """Return where a call comes from."""
        observed = self._service.observed
        if not observed and not request.tells:
            return NOWHERE
        if request.origin is not None:
            return request.origin
        metadata = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in request.fields.items()
        ]
        origin = origin_of(metadata, lambda: str(peer), observed=observed)
        if not observed:
            # Who observes wants each call to have an id of its own.
            request.origin = origin
        return origin

    def refused(self, error: ServingError, origin: Origin) -> None:
        """Take note of a ModelInfer call that is refused."""
        self._service.refused(error, origin)
