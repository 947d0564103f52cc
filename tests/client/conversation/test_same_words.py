"""A fault that the client finds before it sends is told with the words of the server."""

from collections.abc import Callable

import grpc
import numpy as np
import pytest
from support.clients import AnyClient
from support.living import serving
from support.rpc import Stub
from support.served import A, X, echo, write_repository
from support.wire import infer_request, texts

from forwardpass.client import InvalidInputError

TOO_MANY = np.broadcast_to(np.float32(0), (2**31, 3))
"""Of which one element is in memory."""

FAULTS = {
    "too many columns": ("linear", {"x": np.zeros((2, 4), np.float32)}, ()),
    "too few columns": ("linear", {"x": np.zeros((2, 2), np.float32)}, ()),
    "an axis too many": ("linear", {"x": np.zeros((1, 1, 3), np.float32)}, ()),
    "no axes": ("linear", {"x": np.float32(1)}, ()),
    "a vector for a scalar": (echo("FP32", 0), {"x": np.zeros(1, np.float32)}, ()),
    "fewer rows than are fixed": ("fixed", {"x": np.zeros((1, 3), np.float32)}, ()),
    "more elements than a message holds": ("linear", {"x": TOO_MANY}, ()),
    "text for numbers": ("linear", {"x": np.array([["1", "2", "3"]])}, ()),
    "floats for integers": ("counts", {"x": np.ones((1, 3))}, ()),
    "integers for booleans": (echo("BOOL", 1), {"x": np.ones(2, np.int64)}, ()),
    "an input of another name": ("linear", {"z": X}, ()),
    "an input too many": ("pair", {"a": A, "b": A, "c": A}, ()),
    "an input too few": ("pair", {"a": A}, ()),
    "no input": ("pair", {}, ()),
    "an output of another name": ("linear", {"x": X}, ("z",)),
    "an output twice": ("pair", {"a": A, "b": A}, ("total", "total")),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(write_repository(tmp_path_factory.mktemp("models"))) as served:
        yield served.server


@pytest.mark.parametrize(("model", "inputs", "outputs"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_reported_before_sending_in_the_words_of_the_server(
    server, connect: Callable[..., AnyClient], model, inputs, outputs
) -> None:
    # Without a limit nothing is cut: what is too large for one message is refused as such.
    with connect(f"127.0.0.1:{server.port}", max_message_bytes=None) as client:
        with pytest.raises(InvalidInputError) as found:
            client.predict(model, inputs, outputs=outputs or None)
        assert found.value.code is None
        with Stub(server.port) as stub:
            refusal = stub.refusal("ModelInfer", raw(model, inputs, outputs))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert found.value.details == refusal.message


def raw(model, inputs, outputs):
    """The request as a client without checks would send it; of too many elements, the shape."""
    small = {name: array if array.nbytes < 2**20 else array[:0] for name, array in inputs.items()}
    small |= {
        name: texts(*(text.encode() for text in array.ravel())).reshape(array.shape)
        for name, array in inputs.items()
        if array.dtype.kind == "U"
    }
    request = infer_request(model, small, outputs=outputs)
    for tensor in request.inputs:
        tensor.shape[:] = inputs[tensor.name].shape
    return request
