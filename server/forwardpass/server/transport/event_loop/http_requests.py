"""What the server reads from the head of an HTTP request; shared by all with equal heads."""

from collections.abc import Callable
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from forwardpass.proto import priority
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.access.host_names import HostNames
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import PageRowsTooLargeError
from forwardpass.server.observe.origin import REQUEST_ID
from forwardpass.server.rpc.method import Rpc
from forwardpass.server.rpc.rest.infer_replies import InferReplies, dumps
from forwardpass.server.rpc.rest.infer_requests import HEADER_SIZE, InferRequests
from forwardpass.server.rpc.rest.openapi import describe
from forwardpass.server.rpc.rest.predictions import MAX_BYTES
from forwardpass.server.rpc.rest.routes import (
    INFER,
    OPENAPI,
    PAGE_FILE,
    PAGE_MODEL,
    PAGE_OVERVIEW,
    PAGE_RUN,
    Route,
    RouteError,
    authority,
    find_route,
)
from forwardpass.server.rpc.service import Service
from forwardpass.server.transport.compression import WINDOW_BITS, TooLarge
from forwardpass.server.transport.event_loop.methods import Work
from forwardpass.server.transport.http1.reader import Head, KnownHeads

if TYPE_CHECKING:
    from forwardpass.server.rpc.page.page import Page

_REQUEST_ID = REQUEST_ID.encode()
_PRIORITY, _BATCH = priority.KEY.encode(), priority.BATCH.encode()
_HEADER_SIZE = HEADER_SIZE.lower().encode()
_MAX_DIGITS = 10


Find = Callable[[str, str, Caller, Action], Model | None]
"""Returns a model by name and version, if the caller may do something with it."""


class RestMethods:
    """What answers over HTTP, and what all connections share for it."""

    def __init__(
        self,
        unary: dict[str, tuple[Rpc, Work | None]],
        service: Service,
        work: Work,
        max_message_bytes: int,
        page: "Callable[[], Page]",
        page_work: Work,
        host_names: HostNames | None,
    ) -> None:
        """Prepare.

        unary: RPCs by name, and what runs those that are slow. page: See `Front`. page_work: Runs
        what takes long of it. host_names: Of this server, which requests have to carry; None: any.
        """
        # All of the page in threads: the first call imports it.
        self.unary = unary | {
            OPENAPI: (Rpc(_describe(service)), work),
            PAGE_FILE: (Rpc(lambda _message, _caller: b"", open=True), work),
            PAGE_OVERVIEW: (Rpc(lambda _, caller: page().overview(caller)), page_work),
            PAGE_MODEL: (Rpc(lambda message, caller: page().model(message, caller)), page_work),
            PAGE_RUN: (
                Rpc(
                    lambda message, caller: page().run(message, caller),
                    too_large=PageRowsTooLargeError,
                    max_bytes=MAX_BYTES,
                ),
                page_work,
            ),
        }
        self.find: Find = service.find
        self.max_message_bytes = max_message_bytes
        self.host_names = host_names
        self.requests = InferRequests(max_message_bytes)
        self.replies = InferReplies()
        self.known = KnownHeads()

    def read(self, head: Head) -> "HttpRequest":
        """Return what a head says."""
        meaning = head.meaning
        if meaning is None:
            meaning = head.meaning = HttpRequest(head, self)
        return meaning  # type: ignore[no-any-return]


def _describe(service: Service) -> Callable[[bytes, Caller], bytes]:
    kept: tuple[list[ReferenceType[Model]], bytes] = [], b""
    lock = Lock()

    def answer(_: bytes, caller: Caller) -> bytes:
        nonlocal kept
        models = list(service.models(caller))
        # One at a time: each takes long, and Python's lock from the loop.
        with lock:
            described, written = kept
            same = len(described) == len(models) and all(
                each() is model for each, model in zip(described, models, strict=True)
            )
            if not (written and same):
                written = dumps(describe(service.name, models)).encode()
                kept = list(map(ref, models)), written
        return written

    return answer


class HttpRequest:
    """A request before its body."""

    __slots__ = (
        "accepts",
        "batch",
        "encoding",
        "fields",
        "has_id",
        "is_infer",
        "json_size",
        "keep_alive",
        "limit",
        "only_head",
        "refusal",
        "route",
        "rpc",
        "too_large",
        "work",
    )

    def __init__(self, head: Head, methods: RestMethods) -> None:
        """Read the head."""
        fields = self.fields = head.fields
        self.keep_alive = head.keep_alive
        self.only_head = head.method == b"HEAD"
        """Whether the answer is sent without its body."""
        self.has_id = _REQUEST_ID in fields
        """Whether it carries a request id, which has to be returned."""
        self.batch = fields.get(_PRIORITY) == _BATCH
        """Whether it says that its class is batch."""
        self.encoding = fields.get(b"content-encoding", b"identity").strip().lower()
        """Encoding of the body."""
        accepted = _listed(fields.get(b"accept-encoding", b""))
        self.accepts = next((each for each in (b"gzip", b"deflate") if each in accepted), b"")
        """The encoding that the answer may have; empty: none."""
        self.json_size: int | None = None
        """Bytes of JSON before binary tensors; None: all of the body."""
        self.refusal: RouteError | None = None
        """Why it is refused unread; None: it is not."""
        self.rpc: Rpc | None = None
        self.work: Work | None = None
        self.limit = methods.max_message_bytes
        """Maximum size of the body, in bytes."""
        self.too_large: TooLarge | None = None
        """Makes the error for a larger one; None: as for every message."""
        self.is_infer = False
        self.route: Route | None = None
        try:
            _check_host(head, methods.host_names)
            self._route(head, methods)
        except RouteError as error:
            self.refusal = error

    def has(self, etag: bytes) -> bool:
        """Whether the client says that it has the content of a tag already."""
        known = self.fields.get(b"if-none-match", b"")
        return known.strip() == b"*" or etag in (each.strip() for each in known.split(b","))

    def _route(self, head: Head, methods: RestMethods) -> None:
        fields = self.fields
        route = self.route = find_route(head.method, head.target)
        self.is_infer = route.rpc == INFER
        if not self.is_infer:
            self.rpc, self.work = methods.unary[route.rpc]
            if self.limit > self.rpc.max_bytes:
                self.limit, self.too_large = self.rpc.max_bytes, self.rpc.too_large
        if self.encoding != b"identity" and self.encoding not in WINDOW_BITS:
            raise RouteError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"content-encoding {_shown(self.encoding)}: expected identity, gzip or deflate",
            )
        if route.changes:
            _check_is_meant(fields)
        elif route.json_alone:
            _check_is_json(fields.get(b"content-type", b"none"))
        size = fields.get(_HEADER_SIZE)
        if size is not None and self.is_infer:
            if not size.isdigit() or len(size) > _MAX_DIGITS:
                raise RouteError(
                    HTTPStatus.BAD_REQUEST,
                    f"{HEADER_SIZE}: expected a size in bytes, got {_shown(size)}",
                )
            self.json_size = int(size)


def _check_host(head: Head, names: HostNames | None) -> None:
    """Raise RouteError for the name of another server, as a page has it that rebinds its own."""
    host = authority(head.target)
    if host is None:
        # HTTP/1.0 need not have it; browsers always send it.
        host = head.fields.get(b"host")
    if names is None or host is None or names.allow(host.decode("latin-1")):
        return
    raise RouteError(
        HTTPStatus.MISDIRECTED_REQUEST,
        f"host: expected an address, localhost or a name of this server, got {_shown(host)}; "
        "start the server with its names (--http-host-names) if this is one of them",
    )


def _check_is_meant(fields: dict[bytes, bytes]) -> None:
    """Raise RouteError for a change that a foreign page may have a browser ask for."""
    content_type = fields.get(b"content-type")
    if content_type is not None:
        _check_is_json(content_type)
    if b"origin" in fields:
        raise RouteError(
            HTTPStatus.FORBIDDEN,
            "origin: a page in a browser may not change this server; expected a request without "
            "this field",
        )


def _check_is_json(content_type: bytes) -> None:
    if _media_type(content_type) != b"application/json":
        raise RouteError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content-type: expected application/json, got {_shown(content_type)}",
        )


def _media_type(value: bytes) -> bytes:
    return value.partition(b";")[0].strip().lower()


def _listed(value: bytes) -> set[bytes]:
    """Return the encodings that a client accepts, without those of weight 0."""
    found: set[bytes] = set()
    for part in value.lower().split(b","):
        name, _, weight = part.partition(b";")
        if weight.replace(b" ", b"").rstrip(b"0.") != b"q=":
            found.add(name.strip())
    return found


def _shown(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))
