"""ModelConfig: how a model is run here, in the words of Triton's configuration file."""

from collections.abc import Mapping

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto import metadata
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.batching import QueueLimits
from forwardpass.server.caller import Action
from forwardpass.server.catalog import Catalog
from forwardpass.server.model import Model
from forwardpass.server.repository import MODEL_FILE
from forwardpass.server.rpc import Extension, rpc
from forwardpass.server.versions import VersionPolicy

PLATFORM = "onnxruntime_onnx"
"""Triton's name for what ModelMetadata calls onnx_onnxv1."""
BACKEND = "onnxruntime"
COST_CURVE = metadata.PREFIX + "run_us"
"""Parameter: JSON object, rows of a run -> its cost in microseconds on this machine."""
NOT_BATCHED = metadata.PREFIX + "not_batched"
"""Parameter: why rows of different requests do not run together; absent if they do."""


def model_configuration(catalog: Catalog, versions: VersionPolicy, queue: QueueLimits) -> Extension:
    """Offer ModelConfig; versions and queue are the same for every model."""

    def answer(request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = catalog.find(request.name, request.version)
        return pb.ModelConfigResponse(config=_config(model, versions, queue))

    return Extension(
        names=["model_configuration"],
        rpcs={"ModelConfig": rpc(pb.ModelConfigRequest, answer, needs=Action.READ, model="name")},
    )


def _config(model: Model, versions: VersionPolicy, queue: QueueLimits) -> pb.ModelConfig:
    batching = model.batching
    batched = batching.max_rows > 1
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        default_model_filename=MODEL_FILE,
        version_policy=_version_policy(versions),
        max_batch_size=batching.max_rows if batched else 0,
        instance_group=[
            pb.ModelInstanceGroup(
                name=f"{model.name}_0", count=queue.runners, kind=pb.ModelInstanceGroup.KIND_CPU
            )
        ],
        parameters={
            name: pb.ModelParameter(string_value=text) for name, text in _parameters(model).items()
        },
    )
    for spec in model.inputs.values():
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, batched))
    for spec in model.outputs.values():
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, batched))
    if batched:
        config.dynamic_batching.preferred_batch_size.extend(
            rows for rows in batching.curve_us if 1 < rows <= batching.max_rows
        )
        config.dynamic_batching.default_queue_policy.max_queue_size = queue.max_waiting
    return config


def _parameters(model: Model) -> Mapping[str, str]:
    parameters = {
        metadata.BATCH_INVARIANT: model.batching.invariance,
        COST_CURVE: metadata.dump_json(
            {str(rows): round(us, 1) for rows, us in model.batching.curve_us.items()}
        ),
    }
    if model.batching.reason:
        parameters[NOT_BATCHED] = model.batching.reason
    return parameters


def _data_type(spec: TensorSpec) -> str:
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"


def _dims(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    return spec.shape[1:] if batched else spec.shape


def _version_policy(versions: VersionPolicy) -> pb.ModelVersionPolicy:
    if versions.latest is not None:
        return pb.ModelVersionPolicy(
            latest=pb.ModelVersionPolicy.Latest(num_versions=versions.latest)
        )
    if versions.named:
        return pb.ModelVersionPolicy(
            specific=pb.ModelVersionPolicy.Specific(versions=versions.named)
        )
    return pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All())
