"""Reflection: a client that has no file of ours finds the service and calls it."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from support import onnx_files
from support.rpc import REPLIES, SERVICE, Stub
from support.served import GOOD, X, Y, assert_answered

from forwardpass.server.app import Server
from forwardpass.server.config import Config


@pytest.fixture
def database(stub: Stub) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(stub.channel)


def test_lists_every_service(database: ProtoReflectionDescriptorDatabase) -> None:
    assert set(database.get_services()) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.ModelInferRequest",
        "inference.ModelMetadataResponse.TensorMetadata",
        "inference.GRPCInferenceService",
        "grpc.health.v1.HealthCheckRequest",
        "grpc.reflection.v1.ServerReflectionResponse",
    ],
)
def test_finds_the_files_of_messages(
    database: ProtoReflectionDescriptorDatabase, symbol: str
) -> None:
    assert database.FindFileContainingSymbol(symbol).package in {
        "inference",
        "grpc.health.v1",
        "grpc.reflection.v1",
    }


def test_a_request_built_from_reflection_alone_is_answered(
    stub: Stub, database: ProtoReflectionDescriptorDatabase
) -> None:
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {method.name for method in service.methods} >= REPLIES.keys()
    method = service.FindMethodByName("ModelInfer")
    request_type: Any = message_factory.GetMessageClass(method.input_type)
    reply_type: Any = message_factory.GetMessageClass(method.output_type)

    request = request_type(model_name="linear")
    request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    request.inputs[0].contents.fp32_contents.extend(X.ravel().tolist())
    reply = stub.call("ModelInfer", request, reply_type)

    assert reply.raw_output_contents[0] == Y.tobytes()


def opened(stub: Stub, version: str, requests: Iterator[Any]) -> Any:
    """A stream of reflection; the messages of v1 are those of v1alpha under another name."""
    return stub.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(requests, timeout=20)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_names_of_reflection_report_the_same(stub: Stub, version: str) -> None:
    request = reflection_pb2.ServerReflectionRequest
    services, found, unknown = opened(
        stub,
        version,
        iter(
            [
                request(list_services=""),
                request(file_containing_symbol="grpc.reflection.v1.ServerReflectionRequest"),
                request(file_containing_symbol="no.such.Message"),
            ]
        ),
    )
    listed = {service.name for service in services.list_services_response.service}
    assert {SERVICE, f"grpc.reflection.{version}.ServerReflection"} <= listed
    (data,) = found.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(data)
    assert file.package == "grpc.reflection.v1"
    assert "v1alpha" not in str(file)
    assert unknown.error_response.error_code == 5


def test_reflection_reports_no_method_of_health_that_is_not_answered(
    stub: Stub, database: ProtoReflectionDescriptorDatabase
) -> None:
    service = DescriptorPool(database).FindServiceByName("grpc.health.v1.Health")
    unary = [method.name for method in service.methods if method.name != "Watch"]
    health: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
    for name in unary:
        reply_type = message_factory.GetMessageClass(health.methods_by_name[name].output_type)
        assert stub.method(name, reply_type, "grpc.health.v1.Health")(b"", timeout=20)


def test_streams_of_reflection_that_stay_open_keep_nobody_waiting(tmp_path: Path) -> None:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear" / "1" / "model.onnx")
    done = Event()

    def one_request() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        done.wait(20)

    with Server(Config(models=tmp_path, port=0, workers=2)) as server, Stub(server.port) as stub:
        streams = [opened(stub, "v1", one_request()) for _ in range(6)]
        try:
            for stream in streams:
                next(stream)
            assert_answered(stub, GOOD["linear"])
        finally:
            done.set()
            for stream in streams:
                stream.cancel()


def test_a_stream_of_reflection_goes_on_beyond_its_window(stub: Stub) -> None:
    symbols = [f"{number}." + 30_000 * "x" for number in range(120)]
    asked = (reflection_pb2.ServerReflectionRequest(file_containing_symbol=s) for s in symbols)
    answers = [each.original_request.file_containing_symbol for each in opened(stub, "v1", asked)]
    assert answers == symbols
