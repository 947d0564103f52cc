"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload, in Triton's and KServe's form."""

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from functools import partial

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import quote
from forwardpass.server import audit
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.errors import (
    InvalidRequestError,
    NamesTooLargeError,
    NotAllowedError,
    Status,
    UnsupportedError,
)
from forwardpass.server.repository.catalog import Catalog, State
from forwardpass.server.repository.control import Changes
from forwardpass.server.rpc.method import Extension, Pending, rpc_for_caller

FLAG = "--model-control"

_UNLOAD_PARAMETERS = frozenset({"unload_dependents"})
"""Parameters that tritonclient always sends; no model here depends on another."""


_NO_FILES = (
    "RepositoryModelLoad takes the name alone, neither Triton's 'config' nor its files "
    "('file:...'): write config.pbtxt and model.onnx into the repository, then load the model by "
    "its name"
)


class ModelControl:
    """Lists the repository, and loads and unloads models if the operator allows it."""

    def __init__(self, catalog: Catalog, control: Changes, *, allowed: bool) -> None:
        """Prepare the RPCs; allowed: whether callers may load and unload."""
        self._catalog = catalog
        self._control = control
        self._allowed = allowed

    def extension(self) -> Extension:
        """Offer the RPCs."""
        return Extension(
            names=["model_repository"],
            rpcs={
                "RepositoryIndex": rpc_for_caller(pb.RepositoryIndexRequest, self._index),
                "RepositoryModelLoad": rpc_for_caller(
                    pb.RepositoryModelLoadRequest,
                    self._load,
                    waits=True,
                    too_large=partial(NamesTooLargeError, fix=_NO_FILES),
                ),
                "RepositoryModelUnload": rpc_for_caller(
                    pb.RepositoryModelUnloadRequest, self._unload, waits=True
                ),
            },
        )

    def _index(
        self, request: pb.RepositoryIndexRequest, caller: Caller
    ) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise _one_repository(request.repository_name)
        reply = pb.RepositoryIndexResponse()
        for entry in self._catalog.index():
            if not caller.may(Action.READ, entry.name):
                continue
            if entry.state is State.READY or not request.ready:
                reply.models.add(
                    name=entry.name,
                    version=str(entry.version),
                    state=entry.state,
                    reason=entry.reason or self._catalog.note_on(entry.name),
                )
        return reply

    def _load(self, request: pb.RepositoryModelLoadRequest, caller: Caller) -> Pending:
        name = self._name(request, caller)
        _check_parameters(request.parameters, known=(), fix=_NO_FILES)
        done = self._audited("load", name, caller, self._control.load(name))
        return Pending(done, pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True))

    def _unload(self, request: pb.RepositoryModelUnloadRequest, caller: Caller) -> Pending:
        name = self._name(request, caller)
        _check_parameters(request.parameters, known=_UNLOAD_PARAMETERS)
        done = self._audited("unload", name, caller, self._control.unload(name))
        return Pending(done, pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True))

    def _audited(
        self, event: str, name: str, caller: Caller, done: "Future[None]"
    ) -> "Future[None]":
        def record(done: "Future[None]") -> None:
            # A name that is in no repository is a text of the caller's, and is not logged.
            model = name if name in self._catalog else ""
            code = Status.CANCELLED.name if done.cancelled() else audit.ending(done.exception())
            audit.record(event, caller=caller.name, peer=caller.peer, model=model, code=code)

        done.add_done_callback(record)
        return done

    def _name(
        self,
        request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
        caller: Caller,
    ) -> str:
        """Return the model that a request is about; raises unless it may be asked for."""
        if not self._allowed:
            raise NotAllowedError("loading and unloading models", FLAG)
        if request.model_name and request.repository_name:
            raise _one_repository(request.repository_name)
        # KServe's form has the name in the field where Triton's has the repository.
        name = request.model_name or request.repository_name
        if not name or name.startswith(".") or any(char in name for char in "/\\\0"):
            raise InvalidRequestError(
                "model_name",
                f"expected the name of a model in the repository, got {quote(name)}; "
                "paths are not accepted",
            )
        caller.check(Action.CONTROL, name)
        return name


def _one_repository(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"repository_name {quote(name)}: this server has one repository; leave the name out"
    )


def _check_parameters(
    parameters: Mapping[str, pb.ModelRepositoryParameter],
    known: Collection[str],
    fix: str = "models are configured by their files",
) -> None:
    for name in parameters:
        if name not in known:
            raise InvalidRequestError(
                f"parameter {quote(name)}",
                f"expected {' or '.join(map(repr, known)) or 'no parameters'}, got {quote(name)}; "
                f"{fix}",
            )
