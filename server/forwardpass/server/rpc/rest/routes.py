"""Paths: which RPC answers which, with messages made of path and body."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from google.protobuf.message import Message

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.explain import PARAMETER, STEPS_PARAMETER
from forwardpass.proto.pickling import PicklableError
from forwardpass.proto.spec import quote
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.rpc.rest.infer_requests import check_text, load_object
from forwardpass.server.rpc.rest.messages import as_json

INFER = "ModelInfer"
OPENAPI = "OpenApi"
"""No RPC of gRPC's: the description of what is answered over HTTP."""
PAGE_FILE, PAGE_OVERVIEW, PAGE_MODEL, PAGE_RUN = "PageFile", "PageOverview", "PageModel", "PageRun"
"""Nor are these: the server's page."""
_PREDICT = ":predict"
_MAX_DIGITS = 10
_PATH_CHARS = 200
"""Characters of a path that an error quotes."""

_OF_FILES = (
    (
        b"Content-Security-Policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cache-Control", b"no-cache"),
)
"""Of the page's files: nothing foreign is run in it, and nothing of it in a foreign page."""
_OF_DATA = ((b"X-Content-Type-Options", b"nosniff"), (b"Cache-Control", b"no-store"))
"""Of what the page shows."""


class RouteError(PicklableError):
    """No RPC answers at a path, or not by this method."""

    def __init__(self, status: HTTPStatus, text: str, allow: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.allow = allow
        """The methods that are answered there."""


class Shown(NamedTuple):
    """An answer as JSON."""

    status: HTTPStatus
    json: Any
    """Bytes if it is written already, which may be something else than JSON."""
    content_type: bytes = b"application/json"
    fields: Sequence[tuple[bytes, bytes]] = ()
    """Further fields of the answer's head."""
    etag: bytes = b""
    """Changes with the content; who has this one gets 304 in place of it. Empty: not known."""


class Route(NamedTuple):
    """What answers a request."""

    rpc: str
    """Name of the RPC."""
    model: str
    """The model, or the region, in the path; empty without one."""
    version: str
    """Its version or label; empty without one."""
    request: Callable[["Route", bytes], Message]
    """Makes the RPC's message of the body; raises InvalidRequestError."""
    show: Callable[["Route", bytes], Shown]
    """Makes the answer of the RPC's reply."""
    predicts: bool = False
    """Whether it takes named features, and answers with labels."""
    parameters: Mapping[str, str | int] = {}
    """Parameters of the request to the model that are in the target's query."""
    changes: bool = False
    """Whether it changes the server: nothing else of the connection is answered meanwhile."""
    json_alone: bool = False
    """Whether the body has to say that it is JSON, as no foreign page may without leave."""


def find_route(method: bytes, target: bytes) -> Route:
    """Return what answers a request; raises RouteError."""
    asked = method.decode("latin-1")
    path = _path(target)
    routes = _routes(path)
    if not routes:
        raise RouteError(
            HTTPStatus.NOT_FOUND,
            f"unknown path {quote('/' + '/'.join(path)[:_PATH_CHARS])}; GET /openapi.json lists "
            "the paths of the models, which begin with /v2",
        )
    # HEAD is GET without the body of its answer (RFC 9110, 9.3.2).
    route = routes.get("GET" if asked == "HEAD" else asked)
    if route is None:
        allow = tuple(sorted({*routes, *(["HEAD"] if "GET" in routes else [])}))
        raise RouteError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"method: expected {' or '.join(allow)} at this path, got {asked}",
            allow,
        )
    return route._replace(parameters=_parameters(target)) if route.predicts else route


def _parameters(target: bytes) -> dict[str, str | int]:
    """Return what a query asks to be explained, and by how many steps; the rest is ignored."""
    query = target.partition(b"#")[0].partition(b"?")[2].decode("latin-1")
    asked: dict[str, str | int] = {
        name: value
        for name, value in parse_qsl(query, keep_blank_values=True)
        if name in (PARAMETER, STEPS_PARAMETER)
    }
    steps = str(asked.get(STEPS_PARAMETER, ""))
    # Anything else is refused with the text that gRPC has.
    if steps.isdecimal() and len(steps) < _MAX_DIGITS:
        asked[STEPS_PARAMETER] = int(steps)
    return asked


def authority(target: bytes) -> bytes | None:
    """Return the host of a target in a proxy's form, which counts in place of the field's."""
    scheme, separator, rest = target.partition(b"://")
    if b"/" in scheme or not separator:
        return None
    return rest.partition(b"/")[0].partition(b"?")[0].partition(b"#")[0]


def _path(target: bytes) -> list[str]:
    """Return the segments of a target's path; raises RouteError."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):
        # A proxy's form, which every server has to take (RFC 9112, 3.2.2).
        scheme, separator, rest = path.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise RouteError(HTTPStatus.BAD_REQUEST, "target: expected a path")
        path = b"/" + rest.partition(b"/")[2]
    try:
        return [unquote_to_bytes(part).decode() for part in path.rstrip(b"/").split(b"/")[1:]]
    except UnicodeDecodeError:
        raise RouteError(HTTPStatus.BAD_REQUEST, "target: expected UTF-8") from None


def _routes(path: list[str]) -> Mapping[str, Route]:
    """Return what answers at a path, by method."""
    match path:
        case []:
            return _file_route("index.html")
        case ["ui", *rest]:
            return _page_routes(rest)
        case ["openapi.json"]:
            shown = _shown_text
            return {"GET": Route(OPENAPI, "", "", _of(pb.ServerMetadataRequest), shown)}
        case ["v2"]:
            return {"GET": _metadata_route()}
        case ["v2", "health", "live"]:
            return {"GET": Route("ServerLive", "", "", _of(pb.ServerLiveRequest), _live)}
        case ["v2", "health", "ready"]:
            return {"GET": Route("ServerReady", "", "", _of(pb.ServerReadyRequest), _ready)}
        case ["v2", "repository", "index"]:
            route = Route("RepositoryIndex", "", "", _index, _index_shown)
            return {"GET": route, "POST": route}
        case ["v2", "repository", "models", name, "load"]:
            return {"POST": Route("RepositoryModelLoad", name, "", _load, _done, changes=True)}
        case ["v2", "repository", "models", name, "unload"]:
            return {"POST": Route("RepositoryModelUnload", name, "", _unload, _done, changes=True)}
        case ["v2", "logging"]:
            shown = _settings
            return {
                "GET": Route("LogSettings", "", "", _of(pb.LogSettingsRequest), shown),
                "POST": Route("LogSettings", "", "", _log_settings, shown, changes=True),
            }
        case ["v2", "systemsharedmemory", *rest]:
            return _memory_routes(rest)
        case ["v2", "models", "stats"]:
            return {"GET": _stats("", "")}
        case ["v2", "models", name, *rest]:
            version, rest = (
                (rest[1], rest[2:]) if rest[:1] == ["versions"] and rest[1:] else ("", rest)
            )
            return _model_routes(name, version, rest)
    return {}


def _model_routes(name: str, version: str, rest: list[str]) -> Mapping[str, Route]:
    match rest:
        case [] if name.endswith(_PREDICT) and not version:
            named = name.removesuffix(_PREDICT)
            return {"POST": _predict(named, "")}
        case [] if version.endswith(_PREDICT):
            return {"POST": _predict(name, version.removesuffix(_PREDICT))}
        case []:
            shown = _shown(pb.ModelMetadataResponse)
            request = _named(pb.ModelMetadataRequest)
            return {"GET": Route("ModelMetadata", name, version, request, shown)}
        case ["ready"]:
            request = _named(pb.ModelReadyRequest)
            return {"GET": Route("ModelReady", name, version, request, _model_ready)}
        case ["infer"]:
            # Its messages are read and written elsewhere.
            return {"POST": Route(INFER, name, version, _of(pb.ModelInferRequest), _done)}
        case ["config"]:
            request = _named(pb.ModelConfigRequest)
            return {"GET": Route("ModelConfig", name, version, request, _config)}
        case ["stats"]:
            return {"GET": _stats(name, version)}
    return {}


def _page_routes(rest: list[str]) -> Mapping[str, Route]:
    match rest:
        case [name]:
            return _file_route(name)
        case ["api", "overview"]:
            shown = _page_shown
            return {"GET": Route(PAGE_OVERVIEW, "", "", _of(pb.ServerMetadataRequest), shown)}
        case ["api", "models", name, *more]:
            version, more = (
                (more[1], more[2:]) if more[:1] == ["versions"] and more[1:] else ("", more)
            )
            if not more:
                request = _named(pb.ModelMetadataRequest)
                return {"GET": Route(PAGE_MODEL, name, version, request, _page_shown)}
            if more == ["run"]:
                return {
                    "POST": Route(PAGE_RUN, name, version, _page_run, _page_shown, json_alone=True)
                }
    return {}


def _file_route(name: str) -> Mapping[str, Route]:
    return {"GET": Route(PAGE_FILE, name, "", _of(pb.ServerMetadataRequest), _file)}


def _memory_routes(rest: list[str]) -> Mapping[str, Route]:
    name, rest = (rest[1], rest[2:]) if rest[:1] == ["region"] and rest[1:] else ("", rest)
    match rest:
        case ["status"]:
            request = _of_region(pb.SystemSharedMemoryStatusRequest)
            return {"GET": Route("SystemSharedMemoryStatus", name, "", request, _regions)}
        case ["register"] if name:
            route = Route("SystemSharedMemoryRegister", name, "", _register, _done, changes=True)
            return {"POST": route}
        case ["unregister"]:
            request = _of_region(pb.SystemSharedMemoryUnregisterRequest)
            route = Route("SystemSharedMemoryUnregister", name, "", request, _done, changes=True)
            return {"POST": route}
    return {}


def _predict(name: str, version: str) -> Route:
    return Route(INFER, name, version, _of(pb.ModelInferRequest), _done, predicts=True)


def _metadata_route() -> Route:
    shown = _shown(pb.ServerMetadataResponse)
    return Route("ServerMetadata", "", "", _of(pb.ServerMetadataRequest), shown)


def _stats(name: str, version: str) -> Route:
    shown = _shown(pb.ModelStatisticsResponse)
    return Route("ModelStatistics", name, version, _named(pb.ModelStatisticsRequest), shown)


@cache
def _of(kind: type[Message]) -> Callable[[Route, bytes], Message]:
    return lambda _route, _body: kind()


@cache
def _named(kind: Any) -> Callable[[Route, bytes], Message]:
    return lambda route, _body: kind(name=route.model, version=route.version)


@cache
def _of_region(kind: Any) -> Callable[[Route, bytes], Message]:
    return lambda route, _body: kind(name=route.model)


@cache
def _shown(kind: type[Message]) -> Callable[[Route, bytes], Shown]:
    return lambda _, reply: Shown(HTTPStatus.OK, as_json(kind.FromString(reply)))


def _live(_: Route, reply: bytes) -> Shown:
    return _state({}, "live", pb.ServerLiveResponse.FromString(reply).live)


def _ready(_: Route, reply: bytes) -> Shown:
    return _state({}, "ready", pb.ServerReadyResponse.FromString(reply).ready)


def _model_ready(route: Route, reply: bytes) -> Shown:
    ready = pb.ModelReadyResponse.FromString(reply).ready
    return _state({"name": route.model}, "ready", ready)


def _state(shown: dict[str, Any], name: str, good: bool) -> Shown:
    # Probes look at the status alone.
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return Shown(status, shown | {name: good})


def _config(_: Route, reply: bytes) -> Shown:
    return Shown(HTTPStatus.OK, as_json(pb.ModelConfigResponse.FromString(reply).config))


def _index(_: Route, body: bytes) -> Message:
    sent = load_object(body) if body else {}
    ready = sent.get("ready", False)
    if type(ready) is not bool:
        raise InvalidRequestError("ready", "expected a boolean")
    name = sent.get("repository_name", "")
    if type(name) is not str:
        raise InvalidRequestError("repository_name", "expected a string")
    check_text("repository_name", name)
    return pb.RepositoryIndexRequest(repository_name=name, ready=ready)


def _index_shown(_: Route, reply: bytes) -> Shown:
    return Shown(HTTPStatus.OK, as_json(pb.RepositoryIndexResponse.FromString(reply))["models"])


def _load(route: Route, body: bytes) -> Message:
    return _with_parameters(pb.RepositoryModelLoadRequest(model_name=route.model), body)


def _unload(route: Route, body: bytes) -> Message:
    return _with_parameters(pb.RepositoryModelUnloadRequest(model_name=route.model), body)


def _with_parameters(
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest, body: bytes
) -> Message:
    parameters = load_object(body).get("parameters", {}) if body else {}
    if type(parameters) is not dict:
        raise InvalidRequestError("parameters", "expected an object")
    for name, value in parameters.items():
        place = f"parameter {quote(name)}"
        check_text("parameters", name)
        written = request.parameters[name]
        if type(value) is bool:
            written.bool_param = value
        elif type(value) is int and -(2**63) <= value < 2**63:
            written.int64_param = value
        elif type(value) is str and value.isprintable():
            written.string_param = value
        else:
            raise InvalidRequestError(place, "expected a boolean, an integer or a string")
    return request


def _page_run(route: Route, body: bytes) -> Message:
    # Not a tensor: the body as it came, which only the model's inputs give a meaning.
    return pb.ModelInferRequest(
        model_name=route.model, model_version=route.version, raw_input_contents=[body]
    )


def _page_shown(_: Route, reply: bytes) -> Shown:
    return Shown(HTTPStatus.OK, reply, fields=_OF_DATA)


def _file(route: Route, _: bytes) -> Shown:
    # Imported here: most servers are never asked for their page.
    from forwardpass.server.rpc.page.files import find

    file = find(route.model)
    if file is None:
        error = {"error": f"unknown file {quote(route.model)}; the server's page is at /"}
        return Shown(HTTPStatus.NOT_FOUND, error)
    return Shown(HTTPStatus.OK, file.content, file.content_type, _OF_FILES, file.etag)


def _shown_text(_: Route, reply: bytes) -> Shown:
    return Shown(HTTPStatus.OK, reply)


def _register(route: Route, body: bytes) -> Message:
    sent = load_object(body)
    request = pb.SystemSharedMemoryRegisterRequest(name=route.model)
    for field, kind in (("key", str), ("offset", int), ("byte_size", int)):
        value = sent.get(field, kind())
        try:
            if type(value) is not kind:
                raise ValueError
            setattr(request, field, value)
        except ValueError:
            what = "a string" if kind is str else "a number of bytes"
            raise InvalidRequestError(field, f"expected {what}") from None
    return request


def _regions(_: Route, reply: bytes) -> Shown:
    shown = as_json(pb.SystemSharedMemoryStatusResponse.FromString(reply))
    return Shown(HTTPStatus.OK, list(shown["regions"].values()))


def _log_settings(_: Route, body: bytes) -> Message:
    request = pb.LogSettingsRequest()
    for name, value in load_object(body).items():
        check_text("settings", name)
        setting = request.settings[name]
        if type(value) is bool:
            setting.bool_param = value
        elif type(value) is int and 0 <= value < 2**32:
            setting.uint32_param = value
        elif type(value) is str and value.isprintable():
            setting.string_param = value
        else:
            raise InvalidRequestError(
                f"setting {quote(name)}", "expected a boolean, a count or a string"
            )
    return request


def _settings(_: Route, reply: bytes) -> Shown:
    settings = pb.LogSettingsResponse.FromString(reply).settings
    shown = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in settings.items()
    }
    return Shown(HTTPStatus.OK, shown)


def _done(_: Route, _reply: bytes) -> Shown:
    return Shown(HTTPStatus.OK, {})
