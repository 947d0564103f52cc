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


def test_there_are_no_other_messages() -> None:
    assert set(inference_pb2.DESCRIPTOR.message_types_by_name) == {
        name for name in MESSAGES if "." not in name
    }


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
