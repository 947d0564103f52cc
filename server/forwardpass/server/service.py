"""The RPCs: messages in, messages or errors out; no sockets.

The unit of work is a batch of calls: a transport hands over the ModelInfer calls that wait
together and takes back one answer for each, in their order.
"""

from collections.abc import Sequence
from typing import Any

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.version import __version__
from forwardpass.server.batching import Job, Kind
from forwardpass.server.caller import Action
from forwardpass.server.catalog import Catalog
from forwardpass.server.errors import (
    InternalError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ServingError,
    VersionNotFoundError,
)
from forwardpass.server.health import Health
from forwardpass.server.inference import Call, Inference, Reply
from forwardpass.server.model import Model
from forwardpass.server.observation import Observer
from forwardpass.server.origin import NOWHERE, Origin
from forwardpass.server.refusals import Refusals
from forwardpass.server.regions import Regions
from forwardpass.server.rpc import Extension, Rpc, open_rpc, rpc

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters")
"""What the six RPCs can do beyond their protocol; clients look there before they ask."""


class Service:
    """The Open Inference Protocol over the models of a catalog."""

    def __init__(
        self,
        catalog: Catalog,
        health: Health,
        *,
        max_rows: int = 2**20,
        regions: Regions | None = None,
        extensions: Sequence[Extension] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        """Serve a catalog; without regions no caller may use shared memory.

        observers are told of every ModelInfer call that has ended.
        """
        self._catalog = catalog
        self._health = health
        self.refusals = Refusals()
        """ModelInfer calls that ended before their model was known."""
        self.inference = Inference(
            catalog,
            Regions() if regions is None else regions,
            max_rows,
            self.refusals,
            observers,
        )
        """What an event loop needs of ModelInfer."""
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
        """The unary RPCs but ModelInfer by name."""
        for extension in extensions:
            self.unary |= extension.rpcs

    @property
    def observed(self) -> bool:
        """Whether anybody wants to know where calls come from."""
        return self.inference.observed

    def infer(self, calls: Sequence[Call]) -> list[Reply | ServingError]:
        """Answer ModelInfer calls that wait together: one answer or error each, in order.

        Waits for them; an event loop uses a Dispatcher instead.
        """
        single = [
            (part, part.job())
            for portion in self.inference.prepare(calls)
            for part in portion.parts(1)
        ]
        groups: dict[tuple[Model, Kind], list[Job]] = {}
        for portion, job in single:
            groups.setdefault((portion.plan.model, job.kind), []).append(job)
        for (model, _), jobs in groups.items():
            model.run(jobs)
        for portion, job in single:
            self.inference.finish(portion, job)
        return [call.answer or InternalError() for call in calls]

    def refused(self, error: ServingError, origin: Origin = NOWHERE) -> None:
        """Take note of a ModelInfer call that its transport refused."""
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
            name="forwardpass", version=__version__, extensions=self._extensions
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
