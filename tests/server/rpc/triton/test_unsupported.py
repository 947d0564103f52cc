"""What the server does not do, it says, with what to do instead."""

import grpc
from support.rpc import Stub
from support.served import GOOD, assert_answered


def test_is_unimplemented_with_an_alternative(stub: Stub) -> None:
    refusal = stub.refusal("TraceSetting", b"")

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert "forwardpass_timing" in refusal.message
    assert_answered(stub, GOOD["linear"])
