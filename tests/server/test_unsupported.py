"""What the server does not do, it says, with what to do instead."""

import grpc
import pytest
from support.rpc import Stub
from support.served import GOOD, assert_answered


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("CudaSharedMemoryStatus", "system shared memory"),
        ("CudaSharedMemoryRegister", "system shared memory"),
        ("CudaSharedMemoryUnregister", "system shared memory"),
        ("TraceSetting", "forwardpass_timing"),
    ],
)
def test_is_unimplemented_with_an_alternative(stub: Stub, method: str, says: str) -> None:
    refusal = stub.refusal(method, b"")

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert says in refusal.message
    assert_answered(stub, GOOD["linear"])
