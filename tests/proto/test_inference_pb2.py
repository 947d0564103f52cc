"""The message classes: the protocol's, and no one else's in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from forwardpass.proto import inference_pb2

Field = FieldDescriptorProto

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "proto" / "forwardpass" / "proto"

# Field numbers and types as in the public protocol; this is what clients are built from.
MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "1 live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 ready:bool",
    "ModelReadyRequest": "1 name:string, 2 version:string",
    "ModelReadyResponse": "1 ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "1 name:string, 2 version:string, 3 extensions:repeated string",
    "ModelMetadataRequest": "1 name:string, 2 version:string",
    "ModelMetadataResponse": "1 name:string, 2 versions:repeated string, 3 platform:string, "
    "4 inputs:repeated TensorMetadata, 5 outputs:repeated TensorMetadata, "
    "6 properties:repeated PropertiesEntry",
    "ModelMetadataResponse.TensorMetadata": "1 name:string, 2 datatype:string, "
    "3 shape:repeated int64",
    "InferParameter": "1 bool_param:bool, 2 int64_param:int64, 3 string_param:string, "
    "4 double_param:double, 5 uint64_param:uint64",
    "InferTensorContents": "1 bool_contents:repeated bool, 2 int_contents:repeated int32, "
    "3 int64_contents:repeated int64, 4 uint_contents:repeated uint32, "
    "5 uint64_contents:repeated uint64, 6 fp32_contents:repeated float, "
    "7 fp64_contents:repeated double, 8 bytes_contents:repeated bytes",
    "ModelInferRequest": "1 model_name:string, 2 model_version:string, 3 id:string, "
    "4 parameters:repeated ParametersEntry, 5 inputs:repeated InferInputTensor, "
    "6 outputs:repeated InferRequestedOutputTensor, 7 raw_input_contents:repeated bytes",
    "ModelInferRequest.InferInputTensor": "1 name:string, 2 datatype:string, "
    "3 shape:repeated int64, 4 parameters:repeated ParametersEntry, "
    "5 contents:InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "1 name:string, "
    "2 parameters:repeated ParametersEntry",
    "ModelInferResponse": "1 model_name:string, 2 model_version:string, 3 id:string, "
    "4 parameters:repeated ParametersEntry, 5 outputs:repeated InferOutputTensor, "
    "6 raw_output_contents:repeated bytes",
    "ModelInferResponse.InferOutputTensor": "1 name:string, 2 datatype:string, "
    "3 shape:repeated int64, 4 parameters:repeated ParametersEntry, "
    "5 contents:InferTensorContents",
    # Triton's, as far as we use them, with KServe's replies to loading and unloading.
    "ModelStreamInferResponse": "1 error_message:string, 2 infer_response:ModelInferResponse",
    "ModelConfigRequest": "1 name:string, 2 version:string",
    "ModelConfigResponse": "1 config:ModelConfig",
    "ModelConfig": "1 name:string, 2 platform:string, 3 version_policy:ModelVersionPolicy, "
    "4 max_batch_size:int32, 5 input:repeated ModelInput, 6 output:repeated ModelOutput, "
    "7 instance_group:repeated ModelInstanceGroup, 8 default_model_filename:string, "
    "11 dynamic_batching:ModelDynamicBatching, 14 parameters:repeated ParametersEntry, "
    "17 backend:string",
    "ModelInput": "1 name:string, 2 data_type:DataType, 3 format:Format, 4 dims:repeated int64, "
    "5 reshape:ModelTensorReshape",
    "ModelOutput": "1 name:string, 2 data_type:DataType, 3 dims:repeated int64, "
    "4 label_filename:string, 5 reshape:ModelTensorReshape",
    "ModelTensorReshape": "1 shape:repeated int64",
    "ModelInstanceGroup": "1 name:string, 2 count:int32, 4 kind:Kind",
    "ModelVersionPolicy": "1 latest:Latest, 2 all:All, 3 specific:Specific",
    "ModelVersionPolicy.Latest": "1 num_versions:uint32",
    "ModelVersionPolicy.All": "",
    "ModelVersionPolicy.Specific": "1 versions:repeated int64",
    "ModelQueuePolicy": "1 timeout_action:TimeoutAction, 2 default_timeout_microseconds:uint64, "
    "3 allow_timeout_override:bool, 4 max_queue_size:uint32",
    "ModelDynamicBatching": "1 preferred_batch_size:repeated int32, "
    "2 max_queue_delay_microseconds:uint64, 3 preserve_ordering:bool, "
    "4 priority_levels:uint64, 5 default_priority_level:uint64, "
    "6 default_queue_policy:ModelQueuePolicy",
    "ModelParameter": "1 string_value:string",
    "ModelStatisticsRequest": "1 name:string, 2 version:string",
    "StatisticDuration": "1 count:uint64, 2 ns:uint64",
    "InferStatistics": "1 success:StatisticDuration, 2 fail:StatisticDuration, "
    "3 queue:StatisticDuration, 4 compute_input:StatisticDuration, "
    "5 compute_infer:StatisticDuration, 6 compute_output:StatisticDuration, "
    "7 cache_hit:StatisticDuration, 8 cache_miss:StatisticDuration",
    "InferBatchStatistics": "1 batch_size:uint64, 2 compute_input:StatisticDuration, "
    "3 compute_infer:StatisticDuration, 4 compute_output:StatisticDuration",
    "ModelStatistics": "1 name:string, 2 version:string, 3 last_inference:uint64, "
    "4 inference_count:uint64, 5 execution_count:uint64, 6 inference_stats:InferStatistics, "
    "7 batch_stats:repeated InferBatchStatistics",
    "ModelStatisticsResponse": "1 model_stats:repeated ModelStatistics",
    "ModelRepositoryParameter": "1 bool_param:bool, 2 int64_param:int64, 3 string_param:string, "
    "4 bytes_param:bytes",
    "RepositoryIndexRequest": "1 repository_name:string, 2 ready:bool",
    "RepositoryIndexResponse": "1 models:repeated ModelIndex",
    "RepositoryIndexResponse.ModelIndex": "1 name:string, 2 version:string, 3 state:string, "
    "4 reason:string",
    "RepositoryModelLoadRequest": "1 repository_name:string, 2 model_name:string, "
    "3 parameters:repeated ParametersEntry",
    "RepositoryModelLoadResponse": "1 model_name:string, 2 isLoaded:bool",
    "RepositoryModelUnloadRequest": "1 repository_name:string, 2 model_name:string, "
    "3 parameters:repeated ParametersEntry",
    "RepositoryModelUnloadResponse": "1 model_name:string, 2 isUnloaded:bool",
    "SystemSharedMemoryStatusRequest": "1 name:string",
    "SystemSharedMemoryStatusResponse": "1 regions:repeated RegionsEntry",
    "SystemSharedMemoryStatusResponse.RegionStatus": "1 name:string, 2 key:string, "
    "3 offset:uint64, 4 byte_size:uint64",
    "SystemSharedMemoryRegisterRequest": "1 name:string, 2 key:string, 3 offset:uint64, "
    "4 byte_size:uint64",
    "SystemSharedMemoryRegisterResponse": "",
    "SystemSharedMemoryUnregisterRequest": "1 name:string",
    "SystemSharedMemoryUnregisterResponse": "",
    "CudaSharedMemoryStatusRequest": "1 name:string",
    "CudaSharedMemoryStatusResponse": "1 regions:repeated RegionsEntry",
    "CudaSharedMemoryStatusResponse.RegionStatus": "1 name:string, 2 device_id:uint64, "
    "3 byte_size:uint64",
    "CudaSharedMemoryRegisterRequest": "1 name:string, 2 raw_handle:bytes, 3 device_id:int64, "
    "4 byte_size:uint64",
    "CudaSharedMemoryRegisterResponse": "",
    "CudaSharedMemoryUnregisterRequest": "1 name:string",
    "CudaSharedMemoryUnregisterResponse": "",
    "TraceSettingRequest": "1 settings:repeated SettingsEntry, 2 model_name:string",
    "TraceSettingRequest.SettingValue": "1 value:repeated string",
    "TraceSettingResponse": "1 settings:repeated SettingsEntry",
    "TraceSettingResponse.SettingValue": "1 value:repeated string",
    "LogSettingsRequest": "1 settings:repeated SettingsEntry",
    "LogSettingsRequest.SettingValue": "1 bool_param:bool, 2 uint32_param:uint32, "
    "3 string_param:string",
    "LogSettingsResponse": "1 settings:repeated SettingsEntry",
    "LogSettingsResponse.SettingValue": "1 bool_param:bool, 2 uint32_param:uint32, "
    "3 string_param:string",
}


_SCALARS = {
    Field.TYPE_DOUBLE: "double",
    Field.TYPE_FLOAT: "float",
    Field.TYPE_INT64: "int64",
    Field.TYPE_UINT64: "uint64",
    Field.TYPE_INT32: "int32",
    Field.TYPE_BOOL: "bool",
    Field.TYPE_STRING: "string",
    Field.TYPE_BYTES: "bytes",
    Field.TYPE_UINT32: "uint32",
}


def field(proto: FieldDescriptorProto) -> str:
    repeated = "repeated " if proto.label == Field.LABEL_REPEATED else ""
    kind = proto.type_name.rpartition(".")[2] or _SCALARS[proto.type]
    return f"{proto.number} {proto.name}:{repeated}{kind}"


def fields(message: str) -> str:
    descriptor = inference_pb2.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{message}")
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    return ", ".join(map(field, proto.field))


@pytest.mark.parametrize(("message", "expected"), MESSAGES.items(), ids=MESSAGES)
def test_messages_are_the_protocols(message: str, expected: str) -> None:
    assert fields(message) == expected


def test_datatypes_have_the_numbers_of_tritons_configuration() -> None:
    names = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING"

    assert inference_pb2.DataType.items() == [
        (f"TYPE_{name}", number) for number, name in enumerate([*names.split(), "BF16"])
    ]
    assert inference_pb2.ModelInstanceGroup.KIND_CPU == 2


RPCS = """
ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer ModelStreamInfer
ModelConfig ModelStatistics RepositoryIndex RepositoryModelLoad RepositoryModelUnload
SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister
CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister TraceSetting LogSettings
"""


def test_the_service_has_the_rpcs_of_both_protocols() -> None:
    service = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    assert [method.name for method in service.methods] == RPCS.split()
    for method in service.methods:
        request = "ModelInfer" if method.name == "ModelStreamInfer" else method.name
        assert method.input_type.full_name == f"inference.{request}Request"
        assert method.output_type.full_name == f"inference.{method.name}Response"
        assert method.client_streaming is (method.name == "ModelStreamInfer")
        assert method.server_streaming is (method.name == "ModelStreamInfer")


def test_a_message_has_the_protocols_bytes() -> None:
    request = inference_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"\1"])
    request.inputs.add(name="x", datatype="BOOL", shape=[1, -1])

    assert (
        request.SerializeToString().hex()
        == (
            "0a016d"  # model_name
            "2a16" + "0a0178" + "1204424f4f4c" + "1a0b01ffffffffffffffffff01"  # inputs
            "3a0101"  # raw_input_contents
        )
    )


OTHERS = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

def another_inference_proto():
    # As tritonclient, kserve and mlserver have it: the same names in the default pool.
    file = descriptor_pb2.FileDescriptorProto(
        name="grpc_service.proto", package="inference", syntax="proto3"
    )
    for name in ("ModelInferRequest", "ModelInferResponse", "InferParameter"):
        message = file.message_type.add(name=name)
        message.field.add(name="model_name", number=1, type=9, label=1)
    file.service.add(name="GRPCInferenceService")
    descriptor_pool.Default().Add(file)
    found = descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    return message_factory.GetMessageClass(found)
"""

OURS = """
def ours():
    from forwardpass.proto import inference_pb2
    return inference_pb2.ModelInferRequest
"""

SPEAK = """
assert theirs is not mine
for message in (theirs(model_name="m"), mine(model_name="m")):
    assert theirs.FromString(message.SerializeToString()).model_name == "m"
    assert mine.FromString(message.SerializeToString()).model_name == "m"
"""

ROUND_TRIP = """
from google.protobuf.internal import api_implementation
import numpy as np
from forwardpass.proto import inference_pb2
from forwardpass.proto.tensors import decode_raw, decode_typed, encode_raw

assert api_implementation.Type() == "python"
x = np.arange(6, dtype=np.float32).reshape(2, 3)
request = inference_pb2.ModelInferRequest(model_name="m")
tensor = inference_pb2.ModelInferRequest.InferInputTensor(
    name="x", datatype="FP32", shape=x.shape
)
tensor.contents.fp32_contents.extend(x.ravel().tolist())
request.inputs.append(tensor)
request.raw_input_contents.append(encode_raw(x, "FP32"))
request = inference_pb2.ModelInferRequest.FromString(request.SerializeToString())
(tensor,) = request.inputs
assert (decode_raw("x", request.raw_input_contents[0], "FP32", tuple(tensor.shape)) == x).all()
assert (decode_typed("x", tensor.contents, "FP32", tuple(tensor.shape)) == x).all()
"""


def run(program: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "order",
    [
        "theirs = another_inference_proto()\nmine = ours()\n",
        "mine = ours()\ntheirs = another_inference_proto()\n",
    ],
    ids=["theirs first", "ours first"],
)
def test_another_definition_of_the_messages_may_be_there(order: str) -> None:
    run(OTHERS + OURS + order + SPEAK)


def test_protobuf_in_pure_python_works_too() -> None:
    run(ROUND_TRIP, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")


def test_the_committed_files_are_what_protoc_makes(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-Iproto"),
            f"--pyi_out={tmp_path}",
            "--include_imports",
            f"--descriptor_set_out={tmp_path / 'inference.binpb'}",
            "forwardpass/proto/inference.proto",
        ],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    stubs = tmp_path / "forwardpass" / "proto" / "inference_pb2.pyi"

    assert (FOLDER / "inference_pb2.pyi").read_text() == stubs.read_text()
    assert (FOLDER / "inference.binpb").read_bytes() == (tmp_path / "inference.binpb").read_bytes()
