"""CUDA shared memory on a server without GPUs: never there, and clients may make sure of it."""

import grpc
import pytest
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.proto import inference_pb2 as pb

Code = grpc.StatusCode


def test_no_region_is_listed(stub: Stub) -> None:
    status = stub.call(
        "CudaSharedMemoryStatus",
        pb.CudaSharedMemoryStatusRequest(),
        pb.CudaSharedMemoryStatusResponse,
    )

    assert not status.regions


@pytest.mark.parametrize("name", ["", "region"])
def test_whatever_is_unregistered_is_gone(stub: Stub, name: str) -> None:
    request = pb.CudaSharedMemoryUnregisterRequest(name=name)

    assert stub.outcome("CudaSharedMemoryUnregister", request) is Code.OK


def test_a_region_by_its_name_is_not_found(stub: Stub) -> None:
    request = pb.CudaSharedMemoryStatusRequest(name="region")

    refusal = stub.refusal("CudaSharedMemoryStatus", request)

    assert refusal.code is Code.NOT_FOUND
    assert "'region'" in refusal.message


def test_no_region_is_registered_and_the_text_says_what_to_do(stub: Stub) -> None:
    request = pb.CudaSharedMemoryRegisterRequest(
        name="region", raw_handle=bytes(64), device_id=0, byte_size=64
    )

    refusal = stub.refusal("CudaSharedMemoryRegister", request)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert "'region'" in refusal.message
    assert "system shared memory" in refusal.message
    assert_answered(stub, GOOD["linear"])
