"""ModelConfig tells how a model is run, in the words that Triton's clients read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import onnx_files
from support.rpc import Stub
from support.served import echo

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.process.cpus import available_cpus
from forwardpass.server.repository.version_policy import VersionPolicy

pytestmark = pytest.mark.usefixtures("transport")

Code = grpc.StatusCode


def config(stub: Stub, name: str, version: str = "") -> pb.ModelConfig:
    request = pb.ModelConfigRequest(name=name, version=version)
    return stub.call("ModelConfig", request, pb.ModelConfigResponse).config


def metadata(stub: Stub, name: str) -> pb.ModelMetadataResponse:
    return stub.call("ModelMetadata", pb.ModelMetadataRequest(name=name), pb.ModelMetadataResponse)


def test_a_model_that_is_batched_reports_how(stub: Stub) -> None:
    told = config(stub, "pair")

    assert (told.name, told.platform, told.backend) == ("pair", "onnxruntime_onnx", "onnxruntime")
    assert told.default_model_filename == "model.onnx"
    assert told.max_batch_size > 1
    assert told.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert told.dynamic_batching.max_queue_delay_microseconds == 0
    (group,) = told.instance_group
    assert (group.count, group.kind) == (available_cpus(), pb.ModelInstanceGroup.KIND_CPU)
    assert told.dynamic_batching.default_queue_policy.max_queue_size == 1024
    parameters = {name: value.string_value for name, value in told.parameters.items()}
    assert parameters["forwardpass.batch_invariant"] == "true"
    assert "forwardpass.not_batched" not in parameters
    curve = {int(rows): us for rows, us in json.loads(parameters["forwardpass.run_us"]).items()}
    assert set(curve) <= {1, 8, 64, 512}
    assert all(us > 0 for us in curve.values())
    preferred = list(told.dynamic_batching.preferred_batch_size)
    assert set(preferred) <= set(curve)
    assert all(1 < rows <= told.max_batch_size for rows in preferred)


@pytest.mark.parametrize("name", ["pair", "linear", "scores"])
def test_dims_leave_out_the_batch_axis_of_a_model_that_is_batched(stub: Stub, name: str) -> None:
    told, described = config(stub, name), metadata(stub, name)

    sides: list[tuple[Sequence[pb.ModelInput | pb.ModelOutput], Sequence[Any]]] = [
        (told.input, described.inputs),
        (told.output, described.outputs),
    ]
    for configured, tensors in sides:
        assert [tensor.name for tensor in configured] == [tensor.name for tensor in tensors]
        for one, other in zip(configured, tensors, strict=True):
            assert one.data_type == pb.DataType.Value(f"TYPE_{other.datatype}")
            assert [-1, *one.dims] == list(other.shape)


@pytest.mark.parametrize(
    ("name", "dims", "why"),
    [
        ("fixed", [2, 3], "fixed"),
        ("square", [-1, -1], "any length"),
        ("constant", [], "does not depend"),
        (echo("FP32", 0), [], "fixed"),
    ],
)
def test_a_model_that_is_not_batched_says_why(
    stub: Stub, name: str, dims: list[int], why: str
) -> None:
    told = config(stub, name)

    assert told.max_batch_size == 0
    assert told.WhichOneof("scheduling_choice") is None
    assert [list(tensor.dims) for tensor in told.input] in ([dims], [])
    assert why in told.parameters["forwardpass.not_batched"].string_value
    invariant = told.parameters["forwardpass.batch_invariant"].string_value
    assert invariant.startswith("not batched: ")


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [("BOOL", 1), ("UINT8", 2), ("INT64", 9), ("FP16", 10), ("FP64", 12), ("BYTES", 13)],
)
def test_datatypes_have_tritons_numbers(stub: Stub, datatype: str, expected: int) -> None:
    told = config(stub, echo(datatype, 2))

    tensors: list[pb.ModelInput | pb.ModelOutput] = [*told.input, *told.output]
    assert [tensor.data_type for tensor in tensors] == [expected, expected]


@pytest.mark.parametrize(
    ("name", "version", "code"),
    [
        ("nothing", "", Code.NOT_FOUND),
        ("linear", "2", Code.NOT_FOUND),
        ("linear", "abc", Code.INVALID_ARGUMENT),
        ("garbage", "", Code.FAILED_PRECONDITION),
    ],
)
def test_what_is_not_there_has_no_configuration(
    stub: Stub, name: str, version: str, code: Code
) -> None:
    refusal = stub.refusal("ModelConfig", pb.ModelConfigRequest(name=name, version=version))

    assert refusal.code is code


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        onnx_files.save(onnx_files.linear(), tmp_path / "linear" / str(version) / "model.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("all", pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All())),
        ("latest:2", pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=2))),
        ("1,3", pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=[1, 3]))),
    ],
)
def test_the_version_policy_is_the_servers(
    versions: Path, policy: str, expected: pb.ModelVersionPolicy
) -> None:
    settings = Config(models=versions, port=0, versions=VersionPolicy.parse(policy))
    with Server(settings) as server, Stub(server.port) as stub:
        assert config(stub, "linear").version_policy == expected
