"""Small ONNX files, built only with onnx.helper: nothing of forwardpass.models is in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

OPSET = 17
IR_VERSION = 8

_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

Shape = Sequence[int | str | None]
"""A number fixes an axis, a name makes it dynamic, None leaves it nameless too."""


def tensor(name: str, datatype: str, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[datatype], shape)


def build(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    *,
    constants: Mapping[str, NDArray[Any] | np.generic] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    initializers = [
        numpy_helper.from_array(np.asarray(a), name) for name, a in (constants or {}).items()
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def save(model: ModelProto, path: Path) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


W = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
B = np.array([0.5, -0.5], np.float32)


def linear(metadata: Mapping[str, str] | None = None) -> ModelProto:
    """x FP32[batch, 3] -> y FP32[batch, 2], y = x W^T + b; exact in float32 on small integers."""
    return build(
        [helper.make_node("Gemm", ["x", "W", "b"], ["y"], name="layer", transB=1)],
        [tensor("x", "FP32", ["batch", 3])],
        [tensor("y", "FP32", ["batch", 2])],
        constants={"W": W, "b": B},
        metadata=metadata,
    )


def pair() -> ModelProto:
    """a, b FP32[batch, 2] -> total, difference FP32[batch, 2]."""
    return build(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        [tensor("a", "FP32", ["batch", 2]), tensor("b", "FP32", ["batch", 2])],
        [tensor("total", "FP32", ["batch", 2]), tensor("difference", "FP32", ["batch", 2])],
    )


def identity(datatype: str, shape: Shape, metadata: Mapping[str, str] | None = None) -> ModelProto:
    """x -> y, equal."""
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", datatype, shape)],
        [tensor("y", datatype, shape)],
        metadata=metadata,
    )


def constant() -> ModelProto:
    """Nothing -> y FP32[2, 2]."""
    return build(
        [helper.make_node("Identity", ["value"], ["y"])],
        [],
        [tensor("y", "FP32", [2, 2])],
        constants={"value": np.array([[1, 2], [3, 4]], np.float32)},
    )


def pick() -> ModelProto:
    """index INT64[n] -> y FP32[n] out of four values; fails on an index beyond them."""
    return build(
        [helper.make_node("Gather", ["values", "index"], ["y"], name="look_up")],
        [tensor("index", "INT64", ["n"])],
        [tensor("y", "FP32", ["n"])],
        constants={"values": np.array([10, 20, 30, 40], np.float32)},
    )


def fold() -> ModelProto:
    """x FP32[n], shape INT64[1] -> y FP32[m]; fails, with a source path, on another length."""
    return build(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="fold_up")],
        [tensor("x", "FP32", ["n"]), tensor("shape", "INT64", [1])],
        [tensor("y", "FP32", ["m"])],
    )


def slow() -> ModelProto:
    """turns INT64[] -> y FP32[]: some tenths of a millisecond a turn."""
    size = 256
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["v", "eye"], ["v_next"]),
        ],
        "body",
        [
            tensor("turn", "INT64", []),
            tensor("go", "BOOL", []),
            tensor("v", "FP32", [size, size]),
        ],
        [tensor("go_on", "BOOL", []), tensor("v_next", "FP32", [size, size])],
    )
    return build(
        [
            helper.make_node("Loop", ["turns", "", "eye"], ["v_end"], body=body),
            helper.make_node("ReduceMax", ["v_end"], ["y"], keepdims=0),
        ],
        [tensor("turns", "INT64", [])],
        [tensor("y", "FP32", [])],
        constants={"eye": np.eye(size, dtype=np.float32)},
    )


def sequence() -> ModelProto:
    """An output that is a list of tensors, as classifiers of skl2onnx have by default."""
    output = helper.make_tensor_sequence_value_info("probabilities", TensorProto.FLOAT, None)
    return build(
        [helper.make_node("SequenceConstruct", ["x"], ["probabilities"])],
        [tensor("x", "FP32", ["batch", 2])],
        [output],
    )


def without_its_weights() -> ModelProto:
    """A file that refers to weights in a file beside it, which does not exist."""
    model = linear()
    graph: GraphProto = model.graph
    weights = graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "0", "length": "24"}.items():
        weights.external_data.add(key=key, value=value)
    return model


WIDTH = 2**10


def wide() -> ModelProto:
    """One column in, `WIDTH` out: 4 KiB of answer for 4 bytes of a request."""
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", "FP32", ["n", 1])],
        [tensor("y", "FP32", ["n", WIDTH])],
        constants={"w": np.ones((1, WIDTH), np.float32)},
    )
