"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload, in Triton's and KServe's form."""

from collections.abc import Collection, Mapping

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import quote
from forwardpass.server.caller import Action, Caller
from forwardpass.server.catalog import Catalog, State
from forwardpass.server.errors import InvalidRequestError, NotAllowedError, UnsupportedError
from forwardpass.server.lifecycle import Lifecycle
from forwardpass.server.rpc import Extension, rpc_for_caller

FLAG = "--model-control"

_UNLOAD_PARAMETERS = frozenset({"unload_dependents"})
"""Sent by tritonclient every time; no model here depends on another."""


class ModelControl:
    """What a caller can see of the repository, and do to it if the operator allows it."""

    def __init__(self, catalog: Catalog, lifecycle: Lifecycle, *, allowed: bool) -> None:
        """Prepare the RPCs; allowed: whether callers may load and unload."""
        self._catalog = catalog
        self._lifecycle = lifecycle
        self._allowed = allowed

    def extension(self) -> Extension:
        """Offer the RPCs."""
        return Extension(
            names=["model_repository"],
            rpcs={
                "RepositoryIndex": rpc_for_caller(pb.RepositoryIndexRequest, self._index),
                # Of clients that send a model's files along, to be told that they need not.
                "RepositoryModelLoad": rpc_for_caller(
                    pb.RepositoryModelLoadRequest, self._load, names_bytes=None
                ),
                "RepositoryModelUnload": rpc_for_caller(
                    pb.RepositoryModelUnloadRequest, self._unload
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
                    reason=entry.reason,
                )
        return reply

    def _load(
        self, request: pb.RepositoryModelLoadRequest, caller: Caller
    ) -> pb.RepositoryModelLoadResponse:
        name = self._name(request, caller)
        _check_parameters(request.parameters, known=())
        self._lifecycle.load(name)
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    def _unload(
        self, request: pb.RepositoryModelUnloadRequest, caller: Caller
    ) -> pb.RepositoryModelUnloadResponse:
        name = self._name(request, caller)
        _check_parameters(request.parameters, known=_UNLOAD_PARAMETERS)
        self._lifecycle.unload(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

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
                "paths are not taken",
            )
        caller.check(Action.CONTROL, name)
        return name


def _one_repository(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"repository_name {quote(name)}: this server has one repository; leave the name out"
    )


def _check_parameters(
    parameters: Mapping[str, pb.ModelRepositoryParameter], known: Collection[str]
) -> None:
    for name in parameters:
        if name not in known:
            raise InvalidRequestError(
                f"parameter {quote(name)}",
                f"expected {' or '.join(map(repr, known)) or 'no parameters'}, got {quote(name)}; "
                "a model's file says all that there is to configure",
            )
