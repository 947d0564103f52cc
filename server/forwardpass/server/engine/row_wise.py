"""Proof from the graph that axis 0 is a batch axis: no row's answer depends on another row.

Running a model can show that rows mix, never that they do not. So a graph is read node by
node: each tensor is constant, or has along axis 0 one row for each row of the input, and each
operator is known to preserve that. An operator that is not known ends the proof, and the model is
served unbatched.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from forwardpass.server.guard.rules import constant
from forwardpass.server.onnx_messages import AttributeProto, GraphProto, NodeProto


class NotRowWiseError(Exception):
    """The graph does not show that rows are independent; the text says where."""


class _Tensor(NamedTuple):
    """What is known of a tensor."""

    rank: int
    constant: bool
    """Whether it is the same for every call; else it has one row for each row of the input."""
    first: int
    """Length of axis 0 of a constant; -1 for other tensors, and for scalars."""
    values: tuple[int, ...] | None = None
    """The values of a short constant of integers; None for other tensors."""


def prove_row_wise(graph: GraphProto) -> None:
    """Return if every output has, for each row of the inputs, a row that depends on it alone.

    Raises NotRowWiseError.
    """
    known: dict[str, _Tensor] = {
        tensor.name: _Tensor(
            len(tensor.dims),
            True,
            tensor.dims[0] if tensor.dims else -1,
            constant(tensor).values,
        )
        for tensor in graph.initializer
    }
    for value in graph.input:
        if value.name in known:
            continue
        shape = value.type.tensor_type.shape.dim
        if not shape or shape[0].HasField("dim_value"):
            raise NotRowWiseError(f"axis 0 of input {value.name!r} is fixed")
        known[value.name] = _Tensor(len(shape), False, -1)
    for node in graph.node:
        for name in node.output:
            known[name] = _result(node, known)
    for value in graph.output:
        tensor = known.get(value.name)
        if tensor is None or tensor.constant:
            raise NotRowWiseError(f"output {value.name!r} does not depend on the inputs")


def where_place_counts(graph: GraphProto) -> str:
    """Return where the last bits of a row depend on its place in the batch; empty: nowhere.

    onnxruntime computes some functions four elements at a time, and the last ones of a tensor, when
    they are not four, by other code. Rows of a multiple of four never have such. For graphs that
    `prove_row_wise` takes.
    """
    # Of constants, where they are known.
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    # Elements of a row of what depends on the inputs; 0: not known.
    rows: dict[str, int] = {}
    for value in graph.input:
        if value.name not in dims:
            rows[value.name] = math.prod(
                dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]
            )
    for node in graph.node:
        reads = [name for name in node.input if name in rows]
        if not reads:
            if node.op_type in SAME_SHAPE and node.input[0] in dims:
                dims[node.output[0]] = dims[node.input[0]]
            continue
        row = rows[reads[0]]
        if node.op_type in _FOUR_AT_A_TIME and (not row or row % _PACKET):
            width = f"{row}, no multiple of {_PACKET}" if row else "not known"
            return (
                f"the last bits of a row depend on its place after {_where(node)}, where its width "
                f"is {width}"
            )
        rows[node.output[0]] = _row_after(node, [rows[name] for name in reads], dims)
    return ""


def _row_after(node: NodeProto, rows: Sequence[int], dims: Mapping[str, tuple[int, ...]]) -> int:
    """Return the elements of a row of a node's output; 0: not known."""
    if node.op_type in ("Gemm", "MatMul"):
        matrix = dims.get(node.input[1], ())
        if len(matrix) != 2:
            return 0
        read, given = matrix
        if node.op_type == "Gemm":
            # Its rows are of one axis.
            return read if integer(node, "transB", 0) else given
        return rows[0] // read * given if read and rows[0] % read == 0 else 0
    if node.op_type == "Slice":
        return 0
    if node.op_type == "Concat":
        return sum(rows) if all(rows) else 0
    widest = max(rows)
    # One element of a row is compared, or combined, with all of a constant or of a longer row.
    others = [math.prod(dims.get(name, (widest,))) for name in node.input if name]
    if widest == 1:
        return max(others)
    # A row that is repeated for a longer one otherwise is not looked into.
    return widest if set(rows) <= {1, widest} and max(others) <= widest else 0


def _result(node: NodeProto, known: Mapping[str, _Tensor]) -> _Tensor:
    rule = _RULES.get((node.domain or "ai.onnx", node.op_type))
    if rule is None:
        raise NotRowWiseError(f"nothing is known of operator {node.op_type} ({_where(node)})")
    if len(node.output) > 1:
        raise NotRowWiseError(f"{_where(node)} has several outputs")
    try:
        # An optional input that is left out is an empty name.
        inputs = [known[name] for name in node.input if name]
    except KeyError as error:
        raise NotRowWiseError(f"{_where(node)} reads {error}, which no node defines") from error
    result = rule(node, inputs)
    if result is None:
        raise NotRowWiseError(f"{_where(node)} may mix rows")
    return result


_Rule = Callable[[NodeProto, list[_Tensor]], _Tensor | None]


def _constant(node: NodeProto, _: list[_Tensor]) -> _Tensor | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            dims = attribute.t.dims
            return _Tensor(len(dims), True, dims[0] if dims else -1)
    return None


def _elementwise(_: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    rank = max(tensor.rank for tensor in inputs)
    if all(tensor.constant for tensor in inputs):
        widest = max(tensor.first for tensor in inputs if tensor.rank == rank)
        return _Tensor(rank, True, widest)
    for tensor in inputs:
        if tensor.constant:
            # A constant has to be broadcast over the rows, not to differ from row to row.
            if tensor.rank == rank and tensor.first != 1 and rank > 0:
                return None
        elif tensor.rank != rank:
            return None
    return _Tensor(rank, False, -1)


def _first_only(_: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    first, *rest = inputs
    return first if all(tensor.constant for tensor in rest) else None


def _quantization(node: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    first, *rest = inputs
    if not all(tensor.constant for tensor in rest):
        return None
    if first.constant or all(tensor.rank == 0 for tensor in rest):
        return first
    return first if _within_rows(integer(node, "axis", 1), first.rank) else None


def _gemm(node: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    a, b, *c = inputs
    if a.constant or not b.constant or integer(node, "transA", 0):
        return None
    if c and not (c[0].rank < 2 or (c[0].first == 1 if c[0].constant else c[0].rank == 2)):
        return None
    return _Tensor(2, False, -1)


def _matmul(_: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    a, b = inputs
    if a.constant or not b.constant or a.rank < 2 or b.rank != 2:
        return None
    return a


def _concat(node: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    ranks = {tensor.rank for tensor in inputs}
    if len(ranks) != 1 or any(tensor.constant for tensor in inputs):
        return None
    return inputs[0] if _within_rows(integer(node, "axis", 0), inputs[0].rank) else None


def _along_axis(default: int) -> _Rule:
    def rule(node: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
        first, *rest = inputs
        if first.constant or not all(tensor.constant and tensor.rank < 2 for tensor in rest):
            return None
        return first if _within_rows(integer(node, "axis", default), first.rank) else None

    return rule


def _flatten(node: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    if inputs[0].constant or integer(node, "axis", 1) != 1:
        return None
    return _Tensor(2, False, -1)


def _to_table(_: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    # ai.onnx.ml's models answer [N] or [N, C], one row a row.
    (table,) = inputs
    return _Tensor(2, False, -1) if table.rank == 2 and not table.constant else None


def _slice(_: NodeProto, inputs: list[_Tensor]) -> _Tensor | None:
    first, *rest = inputs
    axes = rest[2].values if len(rest) > 2 else None
    if first.constant or not all(tensor.constant for tensor in rest) or not axes:
        return None
    return first if all(_within_rows(axis, first.rank) for axis in axes) else None


def _within_rows(axis: int, rank: int) -> bool:
    return 0 < (axis + rank if axis < 0 else axis) < rank


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an attribute of a node, or a default where it has none."""
    for attribute in node.attribute:
        if attribute.name == name and attribute.type == AttributeProto.INT:
            return attribute.i
    return default


def _where(node: NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})" if node.name else f"a node {node.op_type}"


ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf
    Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu
    Less LessOrEqual Log Max Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu
    Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor
""".split()  # noqa: SIM905 - a list to read

SAME_SHAPE = ("Cast", "DequantizeLinear", "Identity")
"""Operators that give a constant of the shape of their first input."""
_FOUR_AT_A_TIME = frozenset(
    ("Acos", "Asin", "Atan", "Celu", "Cos", "Elu", "Log", "Mish", "Selu", "Sin", "Softplus")
)
"""Operators that onnxruntime 1.32 computes with Eigen's functions of four floats, whose last
bits are not those of the functions of one. tests/server/engine/test_place.py tries all others."""
_PACKET = 4

_RULES: Mapping[tuple[str, str], _Rule] = {
    **{("ai.onnx", operator): _elementwise for operator in ELEMENTWISE},
    ("ai.onnx", "Gemm"): _gemm,
    ("ai.onnx", "MatMul"): _matmul,
    ("ai.onnx", "Concat"): _concat,
    ("ai.onnx", "Slice"): _slice,
    ("ai.onnx", "Softmax"): _along_axis(-1),
    ("ai.onnx", "LogSoftmax"): _along_axis(-1),
    ("ai.onnx", "LayerNormalization"): _along_axis(-1),
    ("ai.onnx", "Flatten"): _flatten,
    ("ai.onnx", "Dropout"): _first_only,
    ("ai.onnx", "Constant"): _constant,
    ("ai.onnx", "QuantizeLinear"): _quantization,
    ("ai.onnx", "DequantizeLinear"): _quantization,
    ("ai.onnx.ml", "LabelEncoder"): _first_only,
    ("ai.onnx.ml", "Scaler"): _first_only,
    ("ai.onnx.ml", "LinearRegressor"): _to_table,
    ("ai.onnx.ml", "TreeEnsembleRegressor"): _to_table,
}
