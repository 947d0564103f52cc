"""Rows whose work grows faster than they do: refused before they take the server's memory."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from onnx import ModelProto, helper
from support.onnx_files import build, linear, save, tensor
from support.proc import resident_mib
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.wire import arrays, infer_request

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

LIMIT = 64 * 2**20


def fourth_power() -> ModelProto:
    """x FP32[n, 1] -> the sum of the products of four rows each: n ** 4 numbers on the way."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["pairs"]),
        helper.make_node("Reshape", ["pairs", "column"], ["p"]),
        helper.make_node("Reshape", ["pairs", "row"], ["q"]),
        helper.make_node("MatMul", ["p", "q"], ["fours"]),
        helper.make_node("ReduceSum", ["fours"], ["y"], keepdims=0),
    ]
    return build(
        nodes,
        [tensor("x", "FP32", ["n", 1])],
        [tensor("y", "FP32", [])],
        constants={"column": np.array([-1, 1]), "row": np.array([1, -1])},
    )


def unequal() -> ModelProto:
    """a FP32[n, 2], b FP32[m, 2] -> a + b, of which one may have a single row."""
    return build(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [tensor("a", "FP32", [None, 2]), tensor("b", "FP32", [None, 2])],
        [tensor("y", "FP32", [None, 2])],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    for model, name in ((fourth_power(), "fourth"), (linear(), "linear"), (unequal(), "unequal")):
        save(model, folder / f"{name}.onnx")
    with Server(Config(models=folder, port=0, trial_memory_bytes=LIMIT)) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub


def test_256_bytes_of_rows_that_would_take_67_mb_are_refused_with_the_limit_and_the_flag(
    stub: Stub,
) -> None:
    before = resident_mib()

    refusal = stub.refusal(
        "ModelInfer", infer_request("fourth", {"x": np.ones((64, 1), np.float32)})
    )

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected inputs that take at most 67108864 bytes of memory in a run" in refusal.message
    assert "send fewer rows per call" in refusal.message
    assert "--trial-memory-bytes" in refusal.message
    # A tenth of what it would have been.
    assert resident_mib() - before < 30
    reply = stub.infer(infer_request("fourth", {"x": np.ones((40, 1), np.float32)}))
    assert arrays(reply)["y"] == 40**4
    assert_answered(stub, GOOD["linear"])


def test_inputs_of_different_numbers_of_rows_have_a_maximum_too(stub: Stub, server: Server) -> None:
    """They cannot run in pieces, and what a row takes is the file's to say."""
    most = server.catalog.find("unequal").whole_rows
    one, many = np.ones((1, 2), np.float32), np.ones((most + 1, 2), np.float32)

    refusal = stub.refusal("ModelInfer", infer_request("unequal", {"a": one, "b": many}))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"expected at most {most} rows" in refusal.message
    for a, b in ((one, many[1:]), (many, many)):
        reply = stub.infer(infer_request("unequal", {"a": a, "b": b}))
        assert (arrays(reply)["y"] == 2).all()
