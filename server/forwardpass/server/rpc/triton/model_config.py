"""ModelConfig: how a model is run here, in the terms of Triton's configuration file."""

from collections.abc import Mapping

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto import metadata
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.access.caller import Action
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.engine.terms import TensorTerms
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.repository.disk import MODEL_FILE
from forwardpass.server.repository.triton_config import TritonConfig
from forwardpass.server.repository.version_policy import VersionPolicy
from forwardpass.server.rpc.method import Extension, rpc

PLATFORM = "onnxruntime_onnx"
"""Triton's name for what ModelMetadata calls onnx_onnxv1."""
BACKEND = "onnxruntime"
COST_CURVE = metadata.PREFIX + "run_us"
"""Parameter: JSON object, rows of a run -> its cost in microseconds on this machine."""
NOT_BATCHED = metadata.PREFIX + "not_batched"
"""Parameter: the reason why rows of different requests do not run together; absent if they do."""


def model_configuration(catalog: Catalog, versions: VersionPolicy, queue: QueueLimits) -> Extension:
    """Offer ModelConfig.

    versions: The policy of every model whose own configuration has none.
    """

    def answer(request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = catalog.find(request.name, request.version)
        # None where the model went out of service just now.
        version = catalog.get(model.name).versions.get(model.version)
        written = None if version is None else version.file.config
        config = _config(model, written or TritonConfig(), versions, queue)
        return pb.ModelConfigResponse(config=config)

    return Extension(
        names=["model_configuration"],
        rpcs={"ModelConfig": rpc(pb.ModelConfigRequest, answer, needs=Action.READ, model="name")},
    )


def _config(
    model: Model, written: TritonConfig, versions: VersionPolicy, queue: QueueLimits
) -> pb.ModelConfig:
    """Describe a model; written: its own configuration."""
    batching = model.batching
    batched = batching.max_rows > 1
    # Clients read dims by max_batch_size: the configured one, however many rows run together.
    max_rows = model.terms.max_rows or (batching.max_rows if batched else 0)
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        default_model_filename=written.model_file or MODEL_FILE,
        version_policy=_version_policy(versions if written.policy is None else written.policy),
        max_batch_size=max_rows,
        instance_group=[
            pb.ModelInstanceGroup(
                name=f"{model.name}_0", count=queue.runners, kind=pb.ModelInstanceGroup.KIND_CPU
            )
        ],
        parameters={
            name: pb.ModelParameter(string_value=text) for name, text in _parameters(model).items()
        },
    )
    first = 1 if max_rows else 0
    for spec in model.inputs.values():
        config.input.add(
            name=spec.name,
            data_type=_data_type(spec),
            format=written.formats.get(spec.name),
            dims=spec.shape[first:],
            reshape=_reshape(model.terms.inputs, spec, first),
        )
    labels = dict(written.label_files)
    for spec in model.outputs.values():
        config.output.add(
            name=spec.name,
            data_type=_data_type(spec),
            dims=spec.shape[first:],
            label_filename=labels.get(spec.name),
            reshape=_reshape(model.terms.outputs, spec, first),
        )
    if batched:
        config.dynamic_batching.preferred_batch_size.extend(
            rows for rows in batching.curve_us if 1 < rows <= batching.max_rows
        )
        config.dynamic_batching.default_queue_policy.max_queue_size = queue.max_waiting
    return config


def _reshape(
    terms: Mapping[str, TensorTerms], spec: TensorSpec, first: int
) -> pb.ModelTensorReshape | None:
    wanted = terms.get(spec.name)
    if wanted is None or wanted.graph_shape is None:
        return None
    return pb.ModelTensorReshape(shape=wanted.graph_shape[first:])


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
