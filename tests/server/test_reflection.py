"""Reflection: a client that has no file of ours finds the service and calls it."""

from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from support.rpc import REPLIES, SERVICE, Stub
from support.served import X, Y


@pytest.fixture
def database(stub: Stub) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(stub.channel)


def test_lists_every_service(database: ProtoReflectionDescriptorDatabase) -> None:
    assert set(database.get_services()) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.ModelInferRequest",
        "inference.ModelMetadataResponse.TensorMetadata",
        "inference.GRPCInferenceService",
        "grpc.health.v1.HealthCheckRequest",
    ],
)
def test_finds_the_files_of_messages(
    database: ProtoReflectionDescriptorDatabase, symbol: str
) -> None:
    assert database.FindFileContainingSymbol(symbol).package in {"inference", "grpc.health.v1"}


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
