"""ONNX graphs of any producer as steps.

Every value is a tensor of rows: (rows, width). A node that provably does not change a row, such as
a Flatten of rows, returns the value that it reads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import GroupedSoftmax, LayerNorm, LeakyRelu, PRelu
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.file.node import DOMAINS, attributes, part_of, refused
from forwardpass.models.file.operators import OPERATORS as _ACTIVATIONS
from forwardpass.models.file.operators import activation_of_node
from forwardpass.models.importers.onnx.constants import Constants
from forwardpass.models.importers.onnx.inputs import OnnxInput
from forwardpass.models.importers.steps import (
    Activate,
    Linear,
    Normalize,
    Operation,
    Select,
    Step,
    Sum,
    clipping,
)

if TYPE_CHECKING:
    from onnx import NodeProto

_FLOATS = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"})
_LARGEST = float(np.finfo(np.float32).max)
_NORMAL = float(np.finfo(np.float32).tiny), _LARGEST


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: the joined values of steps."""

    reads: tuple[str, ...]
    width: int
    is_flat: bool = False
    """Whether it is (rows,), without the axis of its one column: an output may be."""


class OnnxGraph:
    """Reads nodes, in an order in which they can be computed, into steps."""

    def __init__(self, source: OnnxInput, constants: Constants, max_width: int) -> None:
        self.steps: list[Step] = []
        self.values = {source.tensor: Value((source.name,), source.size)}
        self._source = source
        self._constants = constants
        self._max_width = max_width
        self._names = {source.name}
        # What steps took out of other values, and of what a softmax was taken then.
        self.cut: dict[str, tuple[Value, NDArray[np.intp]]] = {}
        self.shares: dict[str, tuple[Value, NDArray[np.intp]]] = {}
        # The input, and its values after scaling.
        self._front = {source.name}

    def read(self, node: "NodeProto") -> None:
        """Read the next node; raises UnsupportedModelError if a Network cannot represent it."""
        if self._source.is_joined and self._source.tensor in node.output:
            return
        for name in node.output:
            if name in self.values or name in self._constants:
                raise refused(node, f"computes {name!r}, which is already defined")
        if self._constants.fold(node):
            return
        operator = node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"
        if operator not in _READERS:
            raise refused(node, f"a Network cannot represent it, only {', '.join(OPERATORS)}")
        reader, inputs = _READERS[operator]
        if inputs is not None and len(node.input) > inputs:
            raise refused(node, f"expected {inputs} inputs at most, got {len(node.input)}")
        read = reader(self, node)
        values = [read] if isinstance(read, Value) else read
        self.values.update(zip(node.output, values, strict=False))

    def value(self, node: "NodeProto", index: int) -> Value:
        """Return the rows that a node reads."""
        name = _name_of(node, index)
        if name in self._constants:
            raise refused(node, f"reads the constant {name!r} where a Network has rows")
        if name not in self.values or not name:
            raise refused(node, f"reads {name!r}, which no earlier node computes")
        if self.values[name].is_flat:
            raise refused(node, f"reads {name!r}, which has one number a row without its axis")
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
        """The number of rows if the file fixes it; None if not."""
        return self._source.batch

    def is_front(self, value: Value) -> bool:
        """Whether a value is the input, scaled or not."""
        return len(value.reads) == 1 and value.reads[0] in self._front

    def step(self, node: "NodeProto", operation: Operation, *read: Value) -> Value:
        """Add a step: the operation of a node on joined values."""
        width = read[0].width
        if isinstance(operation, Linear):
            width = len(operation.W)
        elif isinstance(operation, Select):
            width = len(operation.columns)
        self._check_width(node, width)
        name = self._name(node, operation)
        names = tuple(name for value in read for name in value.reads)
        if isinstance(operation, Normalize) and self.is_front(read[0]):
            self._front.add(name)
        self.steps.append(Step(name, operation, names, part_of(node)))
        return Value((name,), width)

    def joined(self, node: "NodeProto", values: Sequence[Value]) -> Value:
        """Return the joined values."""
        width = sum(value.width for value in values)
        self._check_width(node, width)
        return Value(tuple(name for value in values for name in value.reads), width)

    def _check_width(self, node: "NodeProto", width: int) -> None:
        # Widths may be wrong until weights confirm them, and doubling them takes a few bytes.
        if width > self._max_width:
            raise refused(node, f"{width} values a row, more than the file has bytes")

    def _name(self, node: "NodeProto", operation: Operation) -> str:
        """Return a unique name: from the weights' name as in PyTorch, or from the node's folder."""
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
    """Return a tensor's or a node's name in the form that a Network allows: without slashes."""
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
    return _sum(graph, node, a, graph.step(node, Normalize(factor=-1.0), b))


def _neg(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    return graph.step(node, Normalize(factor=-1.0), graph.value(node, 0))


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
    width = max(a.width, b.width)
    a, b = (_repeated(graph, node, each, width) for each in (a, b))
    _check_widths(node, a.width, b.width)
    # Each value of a Sum has to be that of one step.
    parts = [v if len(v.reads) == 1 else graph.step(node, Normalize(), v) for v in (a, b)]
    return graph.step(node, Sum(), *parts)


def _repeated(graph: OnnxGraph, node: "NodeProto", a: Value, width: int) -> Value:
    """Return one number a row as so many; any other value as it is."""
    if a.width != 1 or width == 1:
        return a
    return graph.step(node, Select(np.zeros(width, np.intp)), a)


def _activate(graph: OnnxGraph, node: "NodeProto") -> Value:
    read, activation = graph.value(node, 0), activation_of_node(node)
    result = graph.step(node, Activate(activation), read)
    if activation == "softmax" and len(read.reads) == 1 and read.reads[0] in graph.cut:
        graph.shares[result.reads[0]] = graph.cut[read.reads[0]]
    return result


def _prelu(graph: OnnxGraph, node: "NodeProto") -> Value:
    attributes(node, {})
    a = graph.value(node, 0)
    given = graph.real(node, 1)
    slopes = _per_column(node, given, a.width)
    # One slope for several values is no parameter of each.
    shared = given.size == 1 and a.width > 1
    try:
        activation = LeakyRelu(given.item()) if shared else PRelu(slopes.tolist())
    except NetworkError as error:
        raise refused(node, str(error)) from error
    return graph.step(node, Activate(activation), a)


def _maximum(graph: OnnxGraph, node: "NodeProto") -> Value:
    """Read Max of rows and constants, in either order: a relu, if they are zero."""
    return _bounded(graph, node, 0)


def _minimum(graph: OnnxGraph, node: "NodeProto") -> Value:
    return _bounded(graph, node, 1)


def _bounded(graph: OnnxGraph, node: "NodeProto", side: int) -> Value:
    attributes(node, {})
    value, other = (0, 1) if graph.is_constant(node, 1) else (1, 0)
    a = graph.value(node, value)
    bounds = [np.full(a.width, -np.inf), np.full(a.width, np.inf)]
    bounds[side] = _per_column(node, graph.real(node, other), a.width)
    return _clipped(graph, node, a, *bounds)


def _clip(graph: OnnxGraph, node: "NodeProto") -> Value:
    """Read Clip: a relu from zero on, a hard sigmoid between two bounds."""
    # Attributes until opset 10, inputs from 11 on.
    given = attributes(node, {"min": -_LARGEST, "max": _LARGEST})
    a = graph.value(node, 0)
    low, high = (
        _per_column(node, graph.real(node, place) if graph.has(node, place) else given[name], 1)
        for place, name in ((1, "min"), (2, "max"))
    )
    # Nothing in float32 is beyond them.
    low = np.where(low <= -_LARGEST, -np.inf, low)
    high = np.where(high >= _LARGEST, np.inf, high)
    return _clipped(graph, node, a, *(np.repeat(each, a.width) for each in (low, high)))


def _clipped(
    graph: OnnxGraph,
    node: "NodeProto",
    a: Value,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> Value:
    try:
        operations = clipping(part_of(node), low, high)
    except UnsupportedSourceError as error:
        raise refused(node, error.why) from error
    for operation in operations:
        a = graph.step(node, operation, a)
    return a


def _slice(graph: OnnxGraph, node: "NodeProto") -> Value:
    """Read a Slice of columns."""
    # Attributes until opset 9, inputs from 10 on.
    given = attributes(node, {"starts": None, "ends": None, "axes": None})
    starts, ends, axes, steps = (
        graph.whole(node, place) if graph.has(node, place) else given.get(name)
        for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    a = graph.value(node, 0)
    if starts is None or ends is None or axes not in ([1], [-1]):
        raise refused(node, f"axes={axes}, where a Network chooses among the values of a row")
    columns = np.arange(a.width)[slice(starts[0], ends[0], steps[0] if steps else 1)]
    return _chosen(graph, node, a, columns)


def _split(graph: OnnxGraph, node: "NodeProto") -> Sequence[Value]:
    """Read a Split of each row's values."""
    given = attributes(node, {"axis": 0, "split": None, "num_outputs": 0})
    a = graph.value(node, 0)
    if given["axis"] not in (-1, 1):
        raise refused(node, f"axis={given['axis']}, which takes rows apart")
    # An attribute until opset 12, an input from 13 on; otherwise equal but for the last.
    sizes = graph.whole(node, 1) if graph.has(node, 1) else given["split"]
    if sizes is None:
        each = -(-a.width // len(node.output))
        sizes = [max(0, min(each, a.width - k * each)) for k in range(len(node.output))]
    if sum(sizes) != a.width or min(sizes) < 0 or len(sizes) != len(node.output):
        raise refused(node, f"into {sizes} of {a.width} values")
    parts = np.split(np.arange(a.width), np.cumsum(sizes)[:-1])
    return [_chosen(graph, node, a, columns) for columns in parts]


def _chosen(graph: OnnxGraph, node: "NodeProto", a: Value, columns: NDArray[np.intp]) -> Value:
    """Return some columns of a value, in any order."""
    if not len(columns):
        raise refused(node, "chooses no values")
    if np.array_equal(columns, np.arange(a.width)):
        return a
    result = graph.step(node, Select(columns), a)
    graph.cut[result.reads[0]] = a, columns
    return result


def _over_values(graph: OnnxGraph, node: "NodeProto") -> Value:
    """Read ReduceSum or ReduceMean of each row's values."""
    defaults = {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}
    given = attributes(node, defaults)
    a = graph.value(node, 0)
    axes = graph.whole(node, 1) if graph.has(node, 1) else given["axes"]
    if axes not in ([1], [-1]):
        raise refused(node, f"axes={axes}: an answer would depend on other rows")
    factor = 1 / a.width if node.op_type == "ReduceMean" else 1.0
    total = graph.step(node, Linear(np.full((1, a.width), factor)), a)
    return total if given["keepdims"] else replace(total, is_flat=True)


def _squeeze(graph: OnnxGraph, node: "NodeProto") -> Value:
    """Read a Squeeze of the axis of one column, which outputs may do without."""
    given = attributes(node, {"axes": None})
    a = graph.value(node, 0)
    axes = graph.whole(node, 1) if graph.has(node, 1) else given["axes"]
    if axes not in ([1], [-1]) or a.width != 1:
        raise refused(node, f"axes={axes} of rows of {a.width} values")
    return replace(a, is_flat=True)


def _concat(graph: OnnxGraph, node: "NodeProto") -> Value:
    axis = attributes(node, {"axis": None})["axis"]
    if axis not in (-1, 1):
        raise refused(node, f"axis={axis}, where a Network joins the values of a row")
    values = [graph.value(node, index) for index in range(len(node.input))]
    return _grouped(graph, node, values) or graph.joined(node, values)


def _grouped(graph: OnnxGraph, node: "NodeProto", values: Sequence[Value]) -> Value | None:
    """Return a softmax over groups, if values are its groups, all in their order."""
    shares = [graph.shares.get(name) for value in values for name in value.reads]
    found = [share for share in shares if share is not None]
    if not found or len(found) < len(shares) or len(found) < len(values):
        return None
    (source, _), *_ = found
    columns = np.concatenate([taken for _, taken in found])
    if any(of != source for of, _ in found) or not np.array_equal(columns, np.arange(source.width)):
        return None
    return graph.step(node, Activate(GroupedSoftmax(len(taken) for _, taken in found)), source)


def _batch_normalization(graph: OnnxGraph, node: "NodeProto") -> Value:
    defaults = {"epsilon": 1e-5, "momentum": 0.9, "spatial": 1, "training_mode": 0}
    given = attributes(node, defaults)
    if given["training_mode"]:
        raise refused(node, "training_mode=1: its answers depend on the other rows")
    # Until opset 13, further outputs mean training.
    if any(node.output[1:]):
        outputs = len([name for name in node.output if name])
        raise refused(node, f"{outputs} outputs, as in training: its answers depend on other rows")
    a = graph.value(node, 0)
    factor, offset, mean, variance = (
        _per_column(node, graph.real(node, index), a.width) for index in (1, 2, 3, 4)
    )
    variance = variance + given["epsilon"]
    if not (variance > 0).all():
        raise refused(node, "expected variances above zero")
    return graph.step(node, Normalize(mean, np.sqrt(variance), factor, offset), a)


def _layer_normalization(graph: OnnxGraph, node: "NodeProto") -> Value:
    given = attributes(node, {"axis": -1, "epsilon": 1e-5, "stash_type": 1})
    if given["axis"] not in (-1, 1):
        raise refused(node, f"axis={given['axis']}: an answer would depend on other rows")
    a = graph.value(node, 0)
    scale = _per_column(node, graph.real(node, 1), a.width)
    bias = _per_column(node, graph.real(node, 2), a.width) if graph.has(node, 2) else np.zeros(0)
    try:
        norm = LayerNorm(scale.tolist(), bias.tolist(), given["epsilon"])
    except NetworkError as error:
        raise refused(node, str(error)) from error
    return graph.step(node, Activate(norm), a)


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


def _transpose(graph: OnnxGraph, node: "NodeProto") -> Value:
    perm = attributes(node, {"perm": None})["perm"]
    # A mapped function of JAX leaves a Transpose that keeps every axis in its place.
    if perm != [0, 1]:
        raise refused(node, f"perm={perm or [1, 0]}, which takes rows apart")
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
    raise refused(node, f"to {shape or 'an unknown shape'}, which is not proven to keep the rows")


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


_Reader: TypeAlias = Callable[[OnnxGraph, "NodeProto"], Value | Sequence[Value]]
_READERS: Mapping[str, tuple[_Reader, int | None]] = {
    "Gemm": (_gemm, 3),
    "MatMul": (_matmul, 2),
    "Add": (_add, 2),
    "Sub": (_sub, 2),
    "Mul": (_mul, 2),
    "Neg": (_neg, 1),
    "Div": (_div, 2),
    "BatchNormalization": (_batch_normalization, 5),
    "LayerNormalization": (_layer_normalization, 3),
    **dict.fromkeys(_ACTIVATIONS, (_activate, 1)),
    "PRelu": (_prelu, 2),
    "Max": (_maximum, 2),
    "Min": (_minimum, 2),
    "Clip": (_clip, 3),
    "Slice": (_slice, 5),
    "Split": (_split, 2),
    "ReduceSum": (_over_values, 2),
    "ReduceMean": (_over_values, 2),
    "Squeeze": (_squeeze, 2),
    "Concat": (_concat, None),
    "Identity": (_identity, 1),
    "Dropout": (_dropout, 3),
    "Cast": (_cast, 1),
    "Flatten": (_flatten, 1),
    "Reshape": (_reshape, 2),
    "Transpose": (_transpose, 1),
    "ai.onnx.ml.Scaler": (_scaler, 1),
}
"""Operators -> the function that reads a node, and its maximum number of inputs."""
OPERATORS = tuple(_READERS)
"""Operators that may be applied to rows."""
