"""Which graphs are proven to keep rows apart, and which are not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, helper
from support import onnx_files

from forwardpass.models import Categorical, Dense, Input, Network, to_onnx
from forwardpass.models.zoo import ZOO
from forwardpass.server.engine.row_wise import NotRowWiseError, prove_row_wise

ROWS: onnx_files.Shape = ["batch", 4]


def graph(
    *nodes: NodeProto,
    constants: Mapping[str, NDArray[Any] | np.generic] | None = None,
    **shapes: onnx_files.Shape,
) -> ModelProto:
    inputs = [onnx_files.tensor(name, "FP32", shape) for name, shape in shapes.items()]
    return onnx_files.build(
        list(nodes),
        inputs or [onnx_files.tensor("x", "FP32", ROWS)],
        [onnx_files.tensor("y", "FP32", ["batch", None])],
        constants=constants or {},
    )


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


F4, F44, F14, F54 = (np.ones(shape, np.float32) for shape in ((4,), (4, 4), (1, 4), (5, 4)))
SCALAR = np.float32(2)
ZERO, ONE, TWO = (np.array([number]) for number in range(3))

APART = {
    "a dense layer": graph(node("Gemm", "x w b"), constants={"w": F44, "b": F4}),
    "a dense layer without bias": graph(node("MatMul", "x w"), constants={"w": F44}),
    "a bias of one row": graph(node("Gemm", "x w b"), constants={"w": F44, "b": F14}),
    "a skip through C": graph(node("Gemm", "x w x"), constants={"w": F44}),
    "scaling": graph(node("Sub", "x m", "c"), node("Div", "c s"), constants={"m": F4, "s": SCALAR}),
    "activations": graph(node("Relu", "x", "a"), node("Tanh", "a")),
    "softmax over a row": graph(node("Softmax", "x", axis=-1)),
    "softmax over axis 1": graph(node("Softmax", "x", axis=1)),
    "rows side by side": graph(node("Concat", "x x", axis=1)),
    "two inputs": graph(node("Add", "x w"), x=ROWS, w=ROWS),
    "flattened pictures": graph(node("Flatten", "x"), x=["n", 2, 2]),
    "a constant computed from constants": graph(
        node("Add", "b b", "c"), node("Add", "x c"), constants={"b": F4}
    ),
    "a part of each row": graph(
        node("Slice", "x one two axis"),
        constants={"one": ONE, "two": TWO, "axis": ONE},
    ),
    "layer normalization": graph(node("LayerNormalization", "x s"), constants={"s": F4}),
}

MIXED = {
    "softmax over the batch": graph(node("Softmax", "x", axis=0)),
    "softmax over the batch, counted from the end": graph(node("Softmax", "x", axis=-2)),
    "rows one below the other": graph(node("Concat", "x x", axis=0)),
    "some of the rows": graph(
        node("Slice", "x one two axis"),
        constants={"one": ONE, "two": TWO, "axis": ZERO},
    ),
    "some of the rows, counted from the end": graph(
        node("Slice", "x one two axis"),
        constants={"one": ONE, "two": TWO, "axis": -TWO},
    ),
    "a part of all axes": graph(node("Slice", "x one two"), constants={"one": ONE, "two": TWO}),
    "the mean of the batch": graph(node("ReduceMean", "x", axes=[0], keepdims=1)),
    "transposed": graph(node("Gemm", "x w", transA=1), constants={"w": F44}),
    "a matrix of rows on the right": graph(node("MatMul", "w x"), constants={"w": F44}),
    "rows times rows": graph(node("Transpose", "x", "t"), node("MatMul", "x t")),
    "a constant of five rows": graph(node("Add", "x c"), constants={"c": F54}),
    "a constant of five rows as bias": graph(node("Gemm", "x w c"), constants={"w": F44, "c": F54}),
    "a vector along the batch": graph(node("Add", "x w"), x=ROWS, w=["batch"]),
    "an axis 0 of fixed length": graph(node("Relu", "x"), x=[3, 4]),
    "a scalar": graph(node("Relu", "x"), x=[]),
    "an operator that is not known": graph(node("CumSum", "x a"), constants={"a": np.int64(0)}),
    "flattened from axis 0": graph(node("Flatten", "x", axis=0)),
    "an output that reads no input": graph(node("Relu", "c"), constants={"c": F54}),
    "normalized over the batch": graph(
        node("LayerNormalization", "x s", axis=0), constants={"s": F4}
    ),
}


@pytest.mark.parametrize("model", APART.values(), ids=APART.keys())
def test_rows_are_apart(model: ModelProto) -> None:
    prove_row_wise(model.graph)


@pytest.mark.parametrize("model", MIXED.values(), ids=MIXED.keys())
def test_what_may_mix_rows_is_not_proven(model: ModelProto) -> None:
    with pytest.raises(NotRowWiseError):
        prove_row_wise(model.graph)


@pytest.mark.parametrize("name", ZOO)
def test_every_example_network_keeps_rows_apart(name: str) -> None:
    prove_row_wise(to_onnx(ZOO[name].network()).graph)


def test_any_network_of_ours_keeps_rows_apart() -> None:
    prove_row_wise(to_onnx(Network.chain([5, 7, 3], "tanh", "softmax")).graph)


def test_categories_and_missing_values_keep_rows_apart() -> None:
    inputs: list[Input | Categorical] = [
        Input(2, fill=[1, np.nan]),
        Categorical("c", ["a", "b"]),
        Categorical("d", [1, 2, 3], "zeros", values=[[1, 2], [3, 4], [5, 6]]),
    ]
    model = to_onnx(Network.define(inputs, [Dense("y", 3, "softmax")]))
    prove_row_wise(model.graph)
    del model.graph.input[1].type.tensor_type.shape.dim[:]
    with pytest.raises(NotRowWiseError, match="'c' is fixed"):
        prove_row_wise(model.graph)


def test_a_graph_in_an_attribute_is_not_followed() -> None:
    model = graph(node("Relu", "x"))
    model.graph.node[0].op_type = "If"
    model.graph.node[0].attribute.append(AttributeProto(name="then_branch"))
    with pytest.raises(NotRowWiseError, match="If"):
        prove_row_wise(model.graph)
