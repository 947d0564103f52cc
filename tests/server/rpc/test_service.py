"""The RPCs that ask about the server and its models."""

import os
import subprocess
import sys

import pytest
from support.rpc import Stub
from support.served import LABELS

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.version import __version__


def metadata(stub: Stub, name: str, version: str = "") -> pb.ModelMetadataResponse:
    request = pb.ModelMetadataRequest(name=name, version=version)
    return stub.call("ModelMetadata", request, pb.ModelMetadataResponse)


def ready(stub: Stub, name: str, version: str = "") -> bool:
    request = pb.ModelReadyRequest(name=name, version=version)
    return stub.call("ModelReady", request, pb.ModelReadyResponse).ready


def test_the_server_is_live_and_ready(stub: Stub) -> None:
    assert stub.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert stub.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready


def test_server_metadata_reports_name_version_and_what_it_can(stub: Stub) -> None:
    reply = stub.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)

    assert (reply.name, reply.version) == ("forwardpass", __version__)
    # Clients ask for what is listed: only what is served may be.
    assert set(reply.extensions) == {
        "binary_tensor_data",
        "classification",
        "parameters",
        "model_configuration",
        "model_repository",
        "statistics",
        "logging",
    }


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("linear", "", True),
        ("linear", "1", True),
        ("linear", "01", True),
        ("linear", "2", False),
        ("linear", "9" * 18, False),
        ("nothing", "", False),
        ("nothing", "1", False),
        ("", "", False),
        ("../linear", "", False),
        ("garbage", "", False),
        ("garbage", "1", False),
        ("partly_broken", "", True),
        ("partly_broken", "1", True),
        ("partly_broken", "2", False),
    ],
)
def test_readiness_of_a_model(stub: Stub, name: str, version: str, expected: bool) -> None:
    assert ready(stub, name, version) is expected


def test_model_metadata_reports_the_signature(stub: Stub) -> None:
    reply = metadata(stub, "pair")

    assert reply.name == "pair"
    assert list(reply.versions) == ["1"]
    assert reply.platform == "onnx_onnxv1"
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.inputs] == [
        ("a", "FP32", [-1, 2]),
        ("b", "FP32", [-1, 2]),
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.outputs] == [
        ("total", "FP32", [-1, 2]),
        ("difference", "FP32", [-1, 2]),
    ]


@pytest.mark.parametrize(
    ("name", "datatype", "shape"),
    [
        ("fixed", "FP32", [2, 3]),
        ("echo_fp32_0", "FP32", []),
        ("echo_bytes_1", "BYTES", [-1]),
        ("echo_fp16_4", "FP16", [-1, -1, -1, -1]),
    ],
)
def test_model_metadata_reports_fixed_and_free_axes(
    stub: Stub, name: str, datatype: str, shape: list[int]
) -> None:
    (told,) = metadata(stub, name).inputs

    assert (told.datatype, list(told.shape)) == (datatype, shape)


def test_model_metadata_lists_the_versions_that_answer(stub: Stub) -> None:
    assert list(metadata(stub, "partly_broken").versions) == ["1"]
    assert list(metadata(stub, "partly_broken", "1").versions) == ["1"]


FOUND_OUT = {"forwardpass.batch_invariant", "forwardpass.signature", "forwardpass.content"}


def test_model_metadata_publishes_what_the_file_says_of_itself(stub: Stub) -> None:
    properties = dict(metadata(stub, "scores").properties)

    assert properties.keys() == {"forwardpass.outputs", *FOUND_OUT}
    assert all(label in properties["forwardpass.outputs"] for label in LABELS)
    assert metadata(stub, "linear").properties.keys() == FOUND_OUT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", "true"),
        ("pair", "true"),
        ("fixed", "not batched: axis 0 of input 'x' is fixed"),
        ("square", "not batched: 'x' has more axes of any length than the first"),
        ("text", "not batched: 'y' holds BYTES"),
    ],
)
def test_model_metadata_reports_whether_rows_run_together(
    stub: Stub, name: str, expected: str
) -> None:
    name = "echo_bytes_1" if name == "text" else name

    assert metadata(stub, name).properties["forwardpass.batch_invariant"] == expected


NOT_UTF8 = """
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.health import Health
from forwardpass.server.rpc.in_thread import infer
from forwardpass.server.rpc.infer import Call
from forwardpass.server.rpc.service import Service

(answer,) = infer(Service(Catalog(), Health()).inference, [Call(b"\\x0a\\x02\\xff\\xfe")])
assert isinstance(answer, InvalidRequestError), repr(answer)
"""


def test_text_that_is_not_utf8_is_invalid_to_protobuf_in_pure_python_too() -> None:
    # There it is a UnicodeDecodeError, which is no DecodeError.
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}

    subprocess.run([sys.executable, "-c", NOT_UTF8], env=environment, check=True, timeout=60)
