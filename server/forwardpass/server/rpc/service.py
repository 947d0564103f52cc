"""The RPCs: messages in, messages or errors out; no sockets.

ModelInfer has drivers of its own (`in_thread`, `on_loop`), since its unit of work is a batch: a
transport passes in all waiting calls and gets one answer for each.
"""

from collections.abc import Sequence
from typing import Any

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.version import __version__
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.audit import Denials
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import (
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ServingError,
    VersionNotFoundError,
)
from forwardpass.server.health import Health
from forwardpass.server.observe.observation import Observer
from forwardpass.server.observe.origin import NOWHERE, Origin
from forwardpass.server.observe.refusals import Refusals
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc.infer import Inference
from forwardpass.server.rpc.method import Extension, Rpc, open_rpc, rpc
from forwardpass.server.rpc.regions import Regions

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters")
"""Extensions of the six RPCs, as ServerMetadata lists them for clients."""


class Service:
    """The Open Inference Protocol over the models of a catalog."""

    def __init__(
        self,
        catalog: Catalog,
        health: Health,
        *,
        name: str = "forwardpass",
        max_rows: int = 2**20,
        regions: Regions | None = None,
        extensions: Sequence[Extension] = (),
        observers: Sequence[Observer] = (),
        denials: Denials | None = None,
    ) -> None:
        """Serve a catalog; without regions no caller may use shared memory.

        name: The server's in ServerMetadata. observers: called for every ended ModelInfer call.
        denials: records callers that are refused.
        """
        self.name = name
        """The server's name in ServerMetadata."""
        self._catalog = catalog
        self._health = health
        self.refusals = Refusals()
        """ModelInfer calls that ended before their model was known."""
        self.denials = Denials() if denials is None else denials
        """Records callers that are refused, for the audit."""
        self.inference = Inference(
            catalog,
            Regions() if regions is None else regions,
            max_rows,
            self.refusals,
            observers,
            self.denials,
        )
        """ModelInfer, for a driver that knows how to wait: `in_thread` or `on_loop`."""
        self._extensions = (*EXTENSIONS, *(name for other in extensions for name in other.names))
        self.unary: dict[str, Rpc] = {
            "ServerLive": open_rpc(pb.ServerLiveRequest, self._server_live),
            "ServerReady": open_rpc(pb.ServerReadyRequest, self._server_ready),
            "ServerMetadata": rpc(pb.ServerMetadataRequest, self._server_metadata, needs=None),
            "ModelReady": rpc(
                pb.ModelReadyRequest, self._model_ready, needs=Action.READ, model="name"
            ),
            "ModelMetadata": rpc(
                pb.ModelMetadataRequest, self._model_metadata, needs=Action.READ, model="name"
            ),
        }
        """The unary RPCs except ModelInfer, by name."""
        for extension in extensions:
            self.unary |= extension.rpcs

    @property
    def observed(self) -> bool:
        """Whether any observer needs the origin of calls."""
        return self.inference.observed

    def find(self, name: str, version: str, caller: Caller, action: Action) -> Model | None:
        """Return a model that a caller may ask about; None if there is none for it."""
        if not caller.may(action, name):
            return None
        try:
            return self._catalog.find(name, version)
        except ServingError:
            return None

    def models(self, caller: Caller) -> list[Model]:
        """Return the latest version of each model that answers and that a caller may read."""
        found = (self.find(name, "", caller, Action.READ) for name in sorted(self._catalog))
        return [model for model in found if model is not None]

    def refused(self, error: ServingError, origin: Origin = NOWHERE) -> None:
        """Count and report a ModelInfer call that its transport refused."""
        self.inference.refused(error, origin)

    def _server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._health.ready)

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._catalog.find(request.name, request.version)
        except (ModelNotFoundError, VersionNotFoundError, ModelFailedError, ModelLoadingError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._health.ready)

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=self.name, version=__version__, extensions=self._extensions
        )

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self._catalog.find(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=map(str, self._catalog.versions(model.name)),
            platform=PLATFORM,
            inputs=map(_tensor_metadata, model.inputs.values()),
            outputs=map(_tensor_metadata, model.outputs.values()),
            properties=model.properties,
        )


def _tensor_metadata(spec: TensorSpec) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
