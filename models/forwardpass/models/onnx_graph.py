"""ONNX graphs of any producer as steps.

Every value is a tensor of rows: (rows, width). A node that is provably nothing to a row, as a
Flatten of rows, gives the value that it reads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.onnx_constants import Constants
from forwardpass.models.onnx_inputs import OnnxInput
from forwardpass.models.onnx_node import DOMAINS, attributes, part_of, refused
from forwardpass.models.steps import Activate, Linear, Normalize, Operation, Step, Sum

if TYPE_CHECKING:
    from onnx import NodeProto

_ACTIVATION_OF = {f.operator: f.name for f in ACTIVATIONS.values() if f.operator is not None}
_FLOATS = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"})
_NORMAL = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: what steps give, side by side."""

    reads: tuple[str, ...]
    width: int


class OnnxGraph:
    """Reads nodes, in an order in which they can be computed, into steps."""

    def __init__(self, source: OnnxInput, constants: Constants, max_width: int) -> None:
        self.steps: list[Step] = []
        self.values = {source.tensor: Value((source.name,), source.size)}
        self._source = source
        self._constants = constants
        self._max_width = max_width
        self._names = {source.name}
        # The input, and what scaling it has been through.
        self._front = {source.name}

    def read(self, node: "NodeProto") -> None:
        """Take in the next node; raises UnsupportedModelError if a Network has no place for it."""
        if self._source.is_joined and self._source.tensor in node.output:
            return
        for name in node.output:
            if name in self.values or name in self._constants:
                raise refused(node, f"gives {name!r}, which is there already")
        if self._constants.fold(node):
            return
        operator = node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"
        if operator not in _READERS:
            raise refused(node, f"a Network has no place for it; read are {', '.join(OPERATORS)}")
        reader, inputs = _READERS[operator]
        if inputs is not None and len(node.input) > inputs:
            raise refused(node, f"expected {inputs} inputs at most, got {len(node.input)}")
        self.values[node.output[0]] = reader(self, node)

    def value(self, node: "NodeProto", index: int) -> Value:
        """Return the rows that a node reads."""
        name = _name_of(node, index)
        if name in self._constants:
            raise refused(node, f"reads the constant {name!r} where a Network has rows")
        if name not in self.values or not name:
            raise refused(node, f"reads {name!r}, which nothing before it gives")
        return self.values[name]

    def is_constant(self, node: "NodeProto", index: int) -> bool:
        """Whether a node's input is a constant."""
        return _name_of(node, index) in self._constants

    def has(self, node: "NodeProto", index: int) -> bool:
        """Whether a node's optional input is given."""
        return _name_of(node, index) != ""

    def real(self, node: "NodeProto", index: int) -> NDArray[np.float64]:
        """Return the constant that a node reads."""
        if not self.is_constant(node, index):
            raise refused(
                node, f"expected input {index}, {_name_of(node, index)!r}, to be a constant"
            )
        return self._constants.real(node.input[index])

    def whole(self, node: "NodeProto", index: int) -> list[int] | None:
        """Return the whole numbers that a node reads, if they are constant."""
        return self._constants.whole(node.input[index]) if self.has(node, index) else None

    @property
    def batch(self) -> int | None:
        """The number of rows, where the file fixes it."""
        return self._source.batch

    def is_front(self, value: Value) -> bool:
        """Whether a value is the input, scaled or not: nothing is computed before it."""
        return len(value.reads) == 1 and value.reads[0] in self._front

    def step(self, node: "NodeProto", operation: Operation, *read: Value) -> Value:
        """Write down what a node does to values side by side."""
        width = len(operation.W) if isinstance(operation, Linear) else read[0].width
        self._check_width(node, width)
        name = self._name(node, operation)
        names = tuple(name for value in read for name in value.reads)
        if isinstance(operation, Normalize) and self.is_front(read[0]):
            self._front.add(name)
        self.steps.append(Step(name, operation, names, part_of(node)))
        return Value((name,), width)

    def joined(self, node: "NodeProto", values: Sequence[Value]) -> Value:
        """Return values side by side."""
        width = sum(value.width for value in values)
        self._check_width(node, width)
        return Value(tuple(name for value in values for name in value.reads), width)

    def _check_width(self, node: "NodeProto", width: int) -> None:
        # Widths are claims until weights bear them out, and doubling them takes a few bytes.
        if width > self._max_width:
            raise refused(node, f"{width} values a row, more than the file has bytes")

    def _name(self, node: "NodeProto", operation: Operation) -> str:
        """Return a name of its own: of the weights in PyTorch's way, or of the node's folder."""
        weights = node.input[1] if isinstance(operation, Linear) and len(node.input) > 1 else ""
        folder, _, _ = node.name.rpartition("/")
        number = f"L{sum(isinstance(step.operation, Linear) for step in self.steps) + 2}"
        otherwise = number if isinstance(operation, Linear) else node.op_type
        name = cleaned(weights.removesuffix(".weight") if weights.endswith(".weight") else folder)
        name = name or otherwise
        free, count = name, 1
        while free in self._names:
            count += 1
            free = f"{name}.{count}"
        self._names.add(free)
        return free


def _name_of(node: "NodeProto", index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def cleaned(name: str) -> str:
    """Return a tensor's or a node's name as a Network allows it: without slashes."""
    allowed = "".join(each if each.isprintable() else " " for each in name)
    return allowed.replace("/", ".").replace("\\", ".").strip(". ")


def _gemm(graph: OnnxGraph, node: "NodeProto") -> Value:
    given = attributes(node, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0})
    a, W = graph.value(node, 0), graph.real(node, 1)
    if given["transA"]:
        raise refused(node, "transA=1, which takes columns for rows")
    W = W if given["transB"] else W.T
    W = W if given["alpha"] == 1 else given["alpha"] * W
    _check_matrix(node, W, a.width)
    beta = given["beta"]
    if not graph.has(node, 2) or beta == 0:
        return graph.step(node, Linear(W), a)
    if graph.is_constant(node, 2):
        b = _per_column(node, graph.real(node, 2), len(W))
        return graph.step(node, Linear(W, b if beta == 1 else beta * b), a)
    c = graph.value(node, 2)
    _check_widths(node, c.width, len(W))
    if beta != 1:
        c = graph.step(node, Normalize(factor=beta), c)
    return _sum(graph, node, c, graph.step(node, Linear(W), a))


def _matmul(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    a, W = graph.value(node, 0), graph.real(node, 1).T
    _check_matrix(node, W, a.width)
    return graph.step(node, Linear(W), a)


def _add(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    for value, other in ((0, 1), (1, 0)):
        if graph.is_constant(node, other):
            a = graph.value(node, value)
            c = _per_column(node, graph.real(node, other), a.width)
            return graph.step(
                node, Normalize(mean=-c) if graph.is_front(a) else Normalize(offset=c), a
            )
    return _sum(graph, node, graph.value(node, 0), graph.value(node, 1))


def _sub(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    if graph.is_constant(node, 1):
        a = graph.value(node, 0)
        return graph.step(node, Normalize(mean=_per_column(node, graph.real(node, 1), a.width)), a)
    b = graph.value(node, 1)
    if graph.is_constant(node, 0):
        c = _per_column(node, graph.real(node, 0), b.width)
        return graph.step(node, Normalize(factor=-1.0, offset=c), b)
    a = graph.value(node, 0)
    _check_widths(node, a.width, b.width)
    return _sum(graph, node, a, graph.step(node, Normalize(factor=-1.0), b))


def _mul(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    value, other = (0, 1) if graph.is_constant(node, 1) else (1, 0)
    a = graph.value(node, value)
    return _scaled(graph, node, a, _per_column(node, graph.real(node, other), a.width))


def _div(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    a = graph.value(node, 0)
    c = _per_column(node, graph.real(node, 1), a.width)
    if (c == 0).any():
        raise refused(node, "divides by zero")
    if graph.is_front(a) and (c > 0).all():
        return graph.step(node, Normalize(scale=c), a)
    return graph.step(node, Normalize(factor=1 / c), a)


def _scaled(graph: OnnxGraph, node: "NodeProto", a: Value, c: NDArray[np.float64]) -> Value:
    """Return c * a: before the first layer as the input's scale, if it can be one."""
    smallest, largest = _NORMAL
    if graph.is_front(a) and ((c >= 1 / largest) & (c <= 1 / smallest)).all():
        return graph.step(node, Normalize(scale=1 / c), a)
    return graph.step(node, Normalize(factor=c), a)


def _sum(graph: OnnxGraph, node: "NodeProto", a: Value, b: Value) -> Value:
    _check_widths(node, a.width, b.width)
    # A Sum reads one name for each of its values.
    parts = [v if len(v.reads) == 1 else graph.step(node, Normalize(), v) for v in (a, b)]
    return graph.step(node, Sum(), *parts)


def _activate(graph: OnnxGraph, node: "NodeProto") -> Value:
    given = attributes(node, {"axis": -1} if node.op_type == "Softmax" else {})
    # The last of two axes, under either of its numbers: what every opset means by them.
    if given.get("axis", -1) not in (-1, 1):
        raise refused(node, f"axis={given['axis']}, where a Network's softmax is over each row")
    return graph.step(node, Activate(_ACTIVATION_OF[node.op_type]), graph.value(node, 0))


def _concat(graph: OnnxGraph, node: "NodeProto") -> Value:
    axis = attributes(node, {"axis": None})["axis"]
    if axis not in (-1, 1):
        raise refused(node, f"axis={axis}, where a Network has values of a row side by side")
    return graph.joined(node, [graph.value(node, index) for index in range(len(node.input))])


def _batch_normalization(graph: OnnxGraph, node: "NodeProto") -> Value:
    defaults = {"epsilon": 1e-5, "momentum": 0.9, "spatial": 1, "training_mode": 0}
    given = attributes(node, defaults)
    if given["training_mode"]:
        raise refused(node, "training_mode=1: its answers depend on the other rows")
    a = graph.value(node, 0)
    factor, offset, mean, variance = (
        _per_column(node, graph.real(node, index), a.width) for index in (1, 2, 3, 4)
    )
    variance = variance + given["epsilon"]
    if not (variance > 0).all():
        raise refused(node, "expected variances above zero")
    return graph.step(node, Normalize(mean, np.sqrt(variance), factor, offset), a)


def _scaler(graph: OnnxGraph, node: "NodeProto") -> Value:
    given = attributes(node, {"offset": [0.0], "scale": [1.0]})
    a = graph.value(node, 0)
    offset, factor = (_per_column(node, given[key], a.width) for key in ("offset", "scale"))
    return _scaled(graph, node, graph.step(node, Normalize(mean=offset), a), factor)


def _identity(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    return graph.value(node, 0)


def _dropout(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {"ratio": 0.5, "seed": 0})
    if graph.has(node, 2) and graph.whole(node, 2) != [0]:
        raise refused(node, "training_mode is not false: its answers would be random")
    return graph.value(node, 0)


def _cast(graph: OnnxGraph, node: "NodeProto") -> Value:
    from onnx import TensorProto

    to = attributes(node, {"to": 0, "saturate": 1})["to"]
    known = to in TensorProto.DataType.values()
    if not known or TensorProto.DataType.Name(to) not in _FLOATS:
        raise refused(node, f"a cast to type {TensorProto.DataType.Name(to) if known else to}")
    return graph.value(node, 0)


def _flatten(graph: OnnxGraph, node: "NodeProto") -> Value:
    axis = attributes(node, {"axis": 1})["axis"]
    if axis not in (-1, 1):
        raise refused(node, f"axis={axis}, which takes rows apart")
    return graph.value(node, 0)


def _reshape(graph: OnnxGraph, node: "NodeProto") -> Value:
    copies = not attributes(node, {"allowzero": 0})["allowzero"]
    a, shape = graph.value(node, 0), graph.whole(node, 1)
    if shape is not None and len(shape) == 2:
        rows, width = shape
        fixed = rows in ({0} if copies else set()) or rows == graph.batch
        if (width == a.width and (fixed or rows == -1)) or (
            fixed and (width == -1 or (width == 0 and copies))
        ):
            return a
    raise refused(node, f"to {shape or 'what is not known'}, which is not shown to keep the rows")


def _check_matrix(node: "NodeProto", W: NDArray[np.float64], width: int) -> None:
    if W.ndim != 2 or W.shape[1] != width or not len(W):
        raise refused(node, f"weights of shape {W.T.shape} on rows of {width} values")


def _check_widths(node: "NodeProto", a: int, b: int) -> None:
    if a != b:
        raise refused(node, f"adds values of widths {a} and {b}")


def _per_column(node: "NodeProto", values: ArrayLike, width: int) -> NDArray[np.float64]:
    """Return a constant that is broadcast over rows as one number a column."""
    array = np.asarray(values, np.float64)
    if array.ndim > 2 or array.shape[:-1] not in ((), (1,)) or array.shape[-1:] not in (
        (), (1,), (width,)
    ):  # fmt: skip
        raise refused(node, f"a constant of shape {array.shape} on rows of {width} values")
    return np.array(np.broadcast_to(array.reshape(-1), (width,)))


_Reader: TypeAlias = Callable[[OnnxGraph, "NodeProto"], Value]
_READERS: Mapping[str, tuple[_Reader, int | None]] = {
    "Gemm": (_gemm, 3),
    "MatMul": (_matmul, 2),
    "Add": (_add, 2),
    "Sub": (_sub, 2),
    "Mul": (_mul, 2),
    "Div": (_div, 2),
    "BatchNormalization": (_batch_normalization, 5),
    **dict.fromkeys(_ACTIVATION_OF, (_activate, 1)),
    "Concat": (_concat, None),
    "Identity": (_identity, 1),
    "Dropout": (_dropout, 3),
    "Cast": (_cast, 1),
    "Flatten": (_flatten, 1),
    "Reshape": (_reshape, 2),
    "ai.onnx.ml.Scaler": (_scaler, 1),
}
"""What reads a node, and how many inputs it may have."""
OPERATORS = tuple(_READERS)
"""What rows may go through."""
