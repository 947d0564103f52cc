"""The guard's rules against onnxruntime: what they say of a shape is what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.onnx_files import build, save, tensor

from forwardpass.server.engine.session import Session
from forwardpass.server.guard.errors import NodeError, NotPlainError
from forwardpass.server.guard.operators import OPERATORS
from forwardpass.server.guard.rules import Tensor, constant

TYPES = {
    "f": TensorProto.FLOAT,
    "i": TensorProto.INT64,
    "b": TensorProto.BOOL,
    "s": TensorProto.STRING,
}
FREE = {"n": 3, "m": 2}
"""The lengths that a caller chooses here."""


@dataclass(frozen=True)
class Case:
    """A node: its inputs are shapes of what is sent, or constants."""

    operator: str
    inputs: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    sent: str = "f"
    """Kind of the numbers sent, or `s` for texts."""

    def __str__(self) -> str:
        return f"{self.operator} {[getattr(each, 'shape', each) for each in self.inputs]}"


def floats(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values)


ROWS = ("n", 4)
ONE = np.float32(0.5)

FUNCTIONS = """
    Abs Celu Ceil Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax Mish Neg
    Reciprocal Relu Round Selu Sigmoid Sign Softmax Softplus Softsign Sqrt Tanh ThresholdedRelu
    """.split()  # noqa: SIM905 - a list to read

CASES = [
    *(Case(name, [ROWS]) for name in FUNCTIONS),
    Case("Gelu", [ROWS]),
    Case("Not", [ROWS], sent="b"),
    Case("IsNaN", [ROWS]),
    Case("Softmax", [("n", 2, 3)], {"axis": 1}),
    *(
        Case(name, inputs)
        for name in ("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum")
        for inputs in ([ROWS, ROWS], [ROWS, floats(4)], [floats(4), ROWS], [ROWS, floats(1, 1)])
    ),
    Case("Sum", [ROWS]),
    Case("Max", [ROWS, floats(4), floats(1)]),
    Case("Add", [("n", 1), floats(1, 5)]),
    Case("Add", [("n", 2, 3), floats(2, 1)]),
    Case("Add", [(), ()]),
    Case("Div", [ROWS, ints(2)], sent="i"),
    Case("PRelu", [ROWS, floats(4)]),
    Case("Clip", [ROWS]),
    Case("Clip", [ROWS, ONE]),
    Case("Clip", [ROWS, ONE, np.float32(2)]),
    *(
        Case(name, [ROWS, floats(4)])
        for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    ),
    *(Case(name, [ROWS, np.array([True])], sent="b") for name in ("And", "Or", "Xor")),
    Case("Where", [ROWS, floats(4), floats(1, 4)], sent="b"),
    Case("Cast", [ROWS], {"to": TensorProto.INT32}),
    Case("MatMul", [ROWS, floats(4, 2)]),
    Case("MatMul", [("n", "m", 4), floats(4, 2)]),
    Case("Gemm", [ROWS, floats(4, 2)]),
    Case("Gemm", [ROWS, floats(2, 4), floats(2)], {"transB": 1}),
    Case("Gemm", [ROWS, floats(4, 2), floats(1)], {"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [ROWS, floats(4, 2), floats(1, 2)]),
    Case("Gemm", [ROWS, floats(4, 2), ("n", 2)]),
    Case("Flatten", [("n", 2, 3)]),
    Case("Flatten", [("n",)]),
    Case("Flatten", [(2, 3)], {"axis": 0}),
    Case("Flatten", [(2, 3, "n")], {"axis": -1}),
    Case("Concat", [ROWS, ("n", 2)], {"axis": 1}),
    Case("Concat", [("n", 2, 3), ("n", 2, 1), ("n", 2, 3)], {"axis": -1}),
    Case("LayerNormalization", [ROWS, floats(4)], {"axis": 1}),
    Case("LayerNormalization", [("n", 2, 3), floats(3), floats(3)], {"epsilon": 0.1}),
    Case("Slice", [ROWS, ints(1), ints(3), ints(1)]),
    Case("Slice", [("n", 2, 3), ints(-9, 0), ints(2**62, -1), ints(2, 1), ints(1, 1)]),
    Case("Slice", [ROWS, ints(3), ints(1), ints(-1)]),
    Case("Reshape", [("n", 2, 3), ints(-1, 6)]),
    Case("Reshape", [("n", 2, 3), ints(0, 3, -1)]),
    Case("Reshape", [("n", 1), ints(-1)]),
    Case("Transpose", [("n", 2, 3)]),
    Case("Transpose", [("n", 2, 3)], {"perm": [0, 2, 1]}),
    Case("Squeeze", [("n", 1, 4), ints(1)]),
    Case("Squeeze", [("n", 1, 4, 1), ints(-1, 1)]),
    Case("Unsqueeze", [ROWS, ints(1)]),
    Case("Unsqueeze", [ROWS, ints(-1, 0)]),
    Case("ArgMax", [ROWS], {"axis": 1}),
    Case("ArgMax", [ROWS], {"axis": -1, "keepdims": 0}),
    Case("ArgMin", [("n", 2, 3)], {"axis": 1}),
    Case("QuantizeLinear", [ROWS, ONE]),
    Case("QuantizeLinear", [ROWS, floats(4), np.zeros(4, np.int8)]),
    Case("DequantizeLinear", [np.ones((2, 4), np.int8), floats(2)], {"axis": 0}),
    Case("DequantizeLinear", [np.ones((1,), np.int8), floats(1), np.array(0, np.int8)]),
    Case("Constant", [], {"value_float": 1.0}),
    Case("Constant", [], {"value_ints": [1, 2]}),
    Case("Constant", [], {"value": helper.make_tensor("v", TensorProto.FLOAT, [1, 2], [1, 2])}),
    Case("Scaler", [ROWS], {"offset": [1.0] * 4, "scale": [1.0] * 4}),
    Case("Scaler", [ROWS], {"offset": [1.0], "scale": [1.0]}),
    Case("Normalizer", [ROWS], {"norm": "L2"}),
    Case("ArrayFeatureExtractor", [ROWS, ints(1, 3, 3)]),
    Case("ArrayFeatureExtractor", [floats(4), ("n",)], sent="i"),
    Case("ArrayFeatureExtractor", [floats(4), ("n", 1)], sent="i"),
    Case("LabelEncoder", [("n", 1)], {"keys_strings": ["1", "b"], "values_int64s": [4, 5]}, "s"),
    Case(
        "LabelEncoder",
        [("n", 2)],
        {"keys_int64s": [7], "values_int64s": [0], "default_int64": 3},
        "i",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_says_the_shape_and_the_type_that_come(case: Case, tmp_path: Path) -> None:
    ml = case.operator in ("Scaler", "Normalizer", "ArrayFeatureExtractor", "LabelEncoder")
    names = [f"i{index}" for index in range(len(case.inputs))]
    node = helper.make_node(
        case.operator, names, ["y"], domain="ai.onnx.ml" if ml else "", **case.attributes
    )
    constants = {
        name: each
        for name, each in zip(names, case.inputs, strict=True)
        if not isinstance(each, tuple)
    }
    sent = {
        name: each for name, each in zip(names, case.inputs, strict=True) if isinstance(each, tuple)
    }
    kind = {"f": "FP32", "i": "INT64", "b": "BOOL", "s": "BYTES"}[case.sent]
    model = build(
        [node], [tensor(name, kind, shape) for name, shape in sent.items()], [], constants=constants
    )
    model.opset_import[0].version = 21
    model.ir_version = 10
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))

    known = {name: Tensor(TYPES[case.sent], shape) for name, shape in sent.items()}
    known |= {each.name: constant(each) for each in model.graph.initializer}
    said = OPERATORS[node.domain, node.op_type].apply(node, [known[name] for name in names])

    model.graph.output.append(helper.make_tensor_value_info("y", said.data_type, None))
    session = Session(save(model, tmp_path / "m.onnx"))
    dtype = {"f": np.float32, "i": np.int64, "b": np.bool_, "s": "S1"}[case.sent]
    feeds: dict[str, NDArray[Any]] = {
        name: _ones([FREE[size] if isinstance(size, str) else size for size in shape], dtype)
        for name, shape in sent.items()
    }
    (y,) = session.run(feeds, ["y"])

    # onnxruntime refuses to load a graph that declares another type than the one computed.
    assert y.shape == tuple(FREE.get(str(size), size) for size in said.shape)


def _ones(shape: list[int], dtype: Any) -> NDArray[Any]:
    ones = np.ones(shape, dtype)
    return ones.astype(object) if ones.dtype.kind == "S" else ones


@pytest.mark.parametrize(
    ("attributes", "read", "error", "message"),
    [
        ({"keys_strings": ["a"], "values_int64s": [0, 1]}, "s", NodeError, "each of its 1 keys"),
        ({"keys_strings": ["a"], "values_int64s": [0]}, "i", NotPlainError, "of another type"),
        ({"keys_int64s": [1], "values_int64s": [0]}, "s", NotPlainError, "of another type"),
        ({"keys_floats": [1.0], "values_int64s": [0]}, "f", NotPlainError, "'keys_floats'"),
    ],
)
def test_an_encoder_has_a_value_for_each_key_of_the_type_that_it_reads(
    attributes: dict[str, Any], read: str, error: type[Exception], message: str
) -> None:
    node = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    with pytest.raises(error, match=message):
        OPERATORS[node.domain, node.op_type].apply(node, [Tensor(TYPES[read], ("n", 1))])


def test_texts_of_numbers_are_not_plain() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)
    with pytest.raises(NotPlainError, match="texts of numbers"):
        OPERATORS["", "Cast"].apply(node, [Tensor(TYPES["f"], ("n", 1))])
    assert OPERATORS["", "Cast"].apply(node, [Tensor(TYPES["s"], ("n", 1))]).shape == ("n", 1)


def test_every_operator_has_a_case() -> None:
    assert {name for _, name in OPERATORS} == {case.operator for case in CASES}


def test_constants_are_read_as_they_are_kept() -> None:
    for data_type, values in ((TensorProto.INT64, [1, -(2**40)]), (TensorProto.INT32, [7, -1])):
        dtype = "<i8" if data_type == TensorProto.INT64 else "<i4"
        raw = np.array(values, dtype).tobytes()
        for kept in (
            helper.make_tensor("c", data_type, [2], values),
            helper.make_tensor("c", data_type, [2], raw, raw=True),
        ):
            assert constant(kept) == Tensor(data_type, (2,), True, tuple(values))
