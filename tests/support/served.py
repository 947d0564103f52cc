"""The repository that the server's tests share, and a call that each model answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import OUTPUTS, ColumnNames, dump_columns
from support import onnx_files
from support.rpc import Stub
from support.wire import DTYPES, arrays, assert_same_bits, infer_request, texts

RANKS = range(5)
LABELS = ("setosa", "versicolor", "virginica", "none")


def echo(datatype: str, rank: int) -> str:
    """Name of the model that answers its input `x` unchanged as `y`."""
    return f"echo_{datatype.lower()}_{rank}"


def write_repository(root: Path) -> Path:
    """Write the models below, the ones that do not load included."""
    labels = dump_columns({"y": ColumnNames(labels=LABELS)})
    models: dict[str, ModelProto] = {
        "linear/1": onnx_files.linear(),
        "pair/1": onnx_files.pair(),
        "fixed/1": onnx_files.identity("FP32", [2, 3]),
        "square/1": onnx_files.identity("FP32", ["n", "n"]),
        "constant/1": onnx_files.constant(),
        "scores/1": onnx_files.identity("FP32", ["batch", 4], {OUTPUTS: labels}),
        "counts/1": onnx_files.identity("INT64", ["batch", 3]),
        "pick/1": onnx_files.pick(),
        "fold/1": onnx_files.fold(),
        "slow/1": onnx_files.slow(),
        "sequence/1": onnx_files.sequence(),
        "weightless/1": onnx_files.without_its_weights(),
        "partly_broken/1": onnx_files.linear(),
    } | {
        f"{echo(datatype, rank)}/1": onnx_files.identity(datatype, ["a", "b", "c", "d"][:rank])
        for datatype in DTYPES
        for rank in RANKS
    }
    for place, model in models.items():
        onnx_files.save(model, root / place / "model.onnx")
    for place in ("garbage/1", "partly_broken/2"):
        (root / place).mkdir(parents=True)
        (root / place / "model.onnx").write_bytes(b"this is no model")
    return root


@dataclass(frozen=True)
class Call:
    """A request and its answer."""

    request: Callable[[], pb.ModelInferRequest]
    """Builds a fresh one: tests change it."""
    answer: Mapping[str, NDArray[Any]]


def assert_answered(stub: Stub, call: Call) -> None:
    got = arrays(stub.infer(call.request()))
    assert list(got) == list(call.answer)
    for name, expected in call.answer.items():
        assert_same_bits(got[name], expected)


X = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)
Y = np.array([[14.5, 31.5], [2.5, 1.5]], np.float32)
A = np.array([[1, 2], [3, 4]], np.float32)
B = np.array([[5, 5], [5, 5]], np.float32)
PAIR = {"total": A + B, "difference": A - B}


def _echoed(array: NDArray[Any], datatype: str, *, typed: bool = False) -> Call:
    name = echo(datatype, array.ndim)
    return Call(lambda: infer_request(name, {"x": array}, typed=typed), {"y": array})


GOOD: Mapping[str, Call] = {
    "linear": Call(lambda: infer_request("linear", {"x": X}), {"y": Y}),
    "linear typed": Call(lambda: infer_request("linear", {"x": X}, typed=True), {"y": Y}),
    "pair": Call(lambda: infer_request("pair", {"a": A, "b": B}), PAIR),
    "pair typed": Call(lambda: infer_request("pair", {"a": A, "b": B}, typed=True), PAIR),
    "fixed": Call(lambda: infer_request("fixed", {"x": X}), {"y": X}),
    "square": Call(lambda: infer_request("square", {"x": A}), {"y": A}),
    "constant": Call(lambda: infer_request("constant", {}), {"y": A}),
    "scalar": _echoed(np.array(2.5, np.float32), "FP32"),
    "free": _echoed(X, "FP32"),
    "half": _echoed(np.array([1, 2.5], np.float16), "FP16"),
    "text": _echoed(texts(b"one", b""), "BYTES"),
    "text typed": _echoed(texts(b"one", b""), "BYTES", typed=True),
    "pick": Call(
        lambda: infer_request("pick", {"index": np.array([3, 0])}),
        {"y": np.array([40, 10], np.float32)},
    ),
    "fold": Call(lambda: infer_request("fold", {"x": A[0], "shape": np.array([2])}), {"y": A[0]}),
    "counts": Call(
        lambda: infer_request("counts", {"x": np.array([[1, 2, 3]])}),
        {"y": np.array([[1, 2, 3]])},
    ),
} | {
    f"{datatype} typed": _echoed(np.array([1, 2], DTYPES[datatype]), datatype, typed=True)
    for datatype in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
}
