"""Integrated gradients as a graph: from a model file to one that also answers attributions.

The path from the baseline to a row is cut into cells, and the derivative of each function is its
mean over a cell: exactly for functions of straight pieces, as relu, whose kinks lie anywhere, else
by the mean of both ends. Without kinks it is taken at the points of Gauss and Legendre instead.
What is linear in the row is computed once for each row, not for each point, in both directions.

Works on the messages of package `onnx`, without importing it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import metadata
from forwardpass.proto.explain import Target, names

Array: TypeAlias = NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float32]

_FLOAT, _INT64, _STRING, _INT = 1, 7, 8, 2
"""FLOAT, INT64 and STRING of TensorProto.DataType, INT of AttributeProto.AttributeType."""
_ROWS = 2
"""Axes of a tensor of rows."""
_PREFIX = "explain/"
_OPSETS = range(13, 24)
"""The opsets in which the operators below have the form in which they are written here."""
_IMPORT = "read the file with forwardpass.models.from_onnx, and publish the network that it returns"
"""The way out of a file that is not written as `forwardpass.models` does."""
_COPIES = 3
"""Tensors on the path that are there at once, for each tensor of the model."""
_SMALL_BYTES = 2**12
"""Maximum size of a constant that is looked for before another one is added, in bytes."""
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_TINY = 1e-30
"""Added to a divisor that may be 0, where the quotient does not count then."""


class NoGradientError(ValueError):
    """A graph whose gradients are not known; the text says why."""


@lru_cache(maxsize=16)
def gauss(steps: int) -> tuple[Array, Array]:
    """Return the points of Gauss and Legendre in 0..1 and their weights, whose sum is 1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


@dataclass(frozen=True, slots=True)
class Start:
    """Where the path of one input begins in a graph: at what the network reads of it."""

    name: str
    """The input."""
    tensor: str
    """The tensor (N, w): the input with its missing values filled in, or its encoded categories."""
    base: Floats
    """That tensor at the baseline, (w,)."""
    inside: frozenset[str]
    """The tensors between the input and it, and itself."""
    is_category: bool = False
    """Whether its columns are one category, whose contribution is theirs together."""

    @property
    def columns(self) -> int:
        """The number of its attributions in a row."""
        return 1 if self.is_category else len(self.base)


def starts_of(model: Any) -> tuple[Start, ...]:
    """Return where paths begin in a file, in the order of its inputs.

    The baseline is what the file says, else the mean of an input's scaling or 0; of categories what
    the graph reads of a missing one, or zeros if that has no answer.

    Raises NoGradientError for an input that is neither rows of numbers of a fixed length nor
    encoded as `forwardpass.models` does; MetadataError.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    texts = {entry.key: entry.value for entry in model.metadata_props}
    columns = metadata.load_columns(metadata.INPUTS, texts.get(metadata.INPUTS, "{}"))
    starts = []
    for value in graph.input:
        if value.name in constants:
            continue
        given = columns.get(value.name, metadata.ColumnNames()).baseline
        kind = value.type.tensor_type
        shape = kind.shape.dim
        if kind.elem_type in (_STRING, _INT64):
            starts.append(_encoded(graph, value.name, constants, given))
        elif kind.elem_type == _FLOAT and len(shape) == _ROWS and shape[1].dim_value:
            starts.append(_numbers(graph, value.name, shape[1].dim_value, constants, given))
        else:
            raise NoGradientError(
                f"input {value.name!r} is not float32 of shape (batch, features), nor a category; "
                + _IMPORT
            )
    return tuple(starts)


def _numbers(
    graph: Any, name: str, size: int, constants: Mapping[str, Any], given: Sequence[Any]
) -> Start:
    filled, inside = _filled(graph, name)
    base = np.zeros(size, np.float32)
    if given:
        if len(given) != size:
            raise NoGradientError(f"the baseline of {name!r} has {len(given)} of {size} features")
        base[:] = given
    else:
        means = [
            constants[node.input[1]]
            for node in graph.node
            if node.op_type == "Sub" and node.input[0] == filled and node.input[1] in constants
        ]
        if len(means) == 1:
            base[:] = _values(means[0]).reshape(-1)
    return Start(name, filled, base, inside)


def _filled(graph: Any, name: str) -> tuple[str, frozenset[str]]:
    """Return the tensor that is the input without missing values, and those that lead to it."""
    masks = {
        node.output[0] for node in graph.node if node.op_type == "IsNaN" and node.input[0] == name
    }
    for node in graph.node:
        if node.op_type == "Where" and node.input[0] in masks and node.input[2] == name:
            return node.output[0], frozenset((node.input[0], node.output[0]))
    return name, frozenset()


def _encoded(graph: Any, name: str, constants: Mapping[str, Any], given: Sequence[Any]) -> Start:
    """Return the start of categories: LabelEncoder, Equal, Cast, and MatMul and Where if need be.

    See `forwardpass.models.file.graph`.
    """

    def reader(operator: str, tensor: str, place: int = 0) -> Any:
        found = (
            node
            for node in graph.node
            if node.op_type == operator and list(node.input)[place : place + 1] == [tensor]
        )
        return next(found, None)

    encoder = reader("LabelEncoder", name)
    equal: Any = reader("Equal", encoder.output[0]) if encoder else None
    cast: Any = reader("Cast", equal.output[0]) if equal else None
    count = constants.get(equal.input[1]) if equal else None
    if not (cast and _integer(cast, "to", 0) == _FLOAT and count and count.data_type == _INT64):
        raise NoGradientError(
            f"input {name!r} is not encoded by LabelEncoder, Equal and Cast; {_IMPORT}"
        )
    codes, otherwise = _codes(encoder)
    if not codes:
        raise NoGradientError(f"input {name!r} has no list of categories; {_IMPORT}")
    (asked,) = given or (metadata.MISSING_TEXT if _is_text(encoder) else metadata.MISSING_INTEGER,)
    base = (_integers(count).reshape(-1) == codes.get(asked, otherwise)).astype(np.float32)
    inside = {encoder.output[0], equal.output[0], cast.output[0]}
    tensor = cast.output[0]
    matrix = reader("MatMul", tensor)
    if matrix and matrix.input[1] in constants:
        base = base @ _values(constants[matrix.input[1]])
        tensor = matrix.output[0]
    # What is refused has no answer; as a baseline it is none of the categories.
    refused, chosen = reader("Less", encoder.output[0]), reader("Where", tensor, 2)
    if refused and chosen and chosen.input[0] == refused.output[0]:
        inside |= {refused.output[0], tensor}
        tensor = chosen.output[0]
    return Start(name, tensor, base, frozenset((*inside, tensor)), is_category=True)


def _is_text(encoder: Any) -> bool:
    return any(each.name == "keys_strings" for each in encoder.attribute)


def _codes(encoder: Any) -> tuple[dict[str | int, int], int]:
    """Return the number of each category, and that of any other."""
    lists = {each.name: each for each in encoder.attribute}
    keys: list[str | int] = (
        [text.decode() for text in lists["keys_strings"].strings]
        if "keys_strings" in lists
        else list(lists["keys_int64s"].ints)
        if "keys_int64s" in lists
        else []
    )
    values = list(lists["values_int64s"].ints) if "values_int64s" in lists else []
    return dict(zip(keys, values, strict=False)), _integer(encoder, "default_int64", -1)


def explained(model: Any, target: Target, steps: int, *, max_row_bytes: int | None = None) -> Any:
    """Return the ModelProto that also answers `names(target.output)`.

    max_row_bytes: Maximum memory that explaining one row may take; None: any.

    Raises NoGradientError if the graph has an operator whose gradient is not known here, or two
    tensors would have one name; MetadataError.
    """
    _check(model, target)
    starts = starts_of(model)
    result = type(model)()
    result.CopyFrom(model)
    del result.metadata_props[:]
    result.metadata_props.extend(
        entry for entry in model.metadata_props if entry.key in (metadata.INPUTS, metadata.OUTPUTS)
    )
    graph = _Graph(result.graph, steps)
    for start in starts:
        graph.begin(start)
    inside = frozenset[str]().union(*(start.inside for start in starts))
    nodes = [node for node in model.graph.node if not inside.intersection(node.output)]
    for node in nodes:
        graph.forward(node)
    widths = sum(tensor.width for tensor in graph.tensors.values())
    row_bytes = _COPIES * (steps + 1) * widths * np.dtype(np.float32).itemsize
    if max_row_bytes is not None and row_bytes > max_row_bytes:
        raise NoGradientError(
            f"{steps} steps would take {row_bytes} bytes for each row, more than {max_row_bytes}; "
            "ask for fewer"
        )
    end = graph.tensors[target.output]
    if target.column >= end.width:
        raise NoGradientError(f"{target.output!r} has {end.width} columns")
    end.along.append(np.eye(end.width)[target.column])
    for node in reversed(nodes):
        graph.backward(node)
    attributions, error = names(target.output)
    if len(starts) == 1:
        graph.contribution(starts[0], attributions)
    else:
        graph.node("Concat", *map(graph.contribution, starts), output=attributions, axis=1)
    columns = sum(start.columns for start in starts)
    answer = graph.part(target.output, target.column, axis=1)
    base = graph.part(graph.at_baseline(starts, nodes)[target.output], target.column, axis=1)
    total = graph.row_sum(attributions, columns)
    off = graph.node("Sub", total, graph.node("Sub", answer, base))
    graph.node("Reshape", off, np.array([-1]), output=error)
    _add_output(result.graph, attributions, (columns,))
    _add_output(result.graph, error, ())
    return result


_WIDE = 16
"""Columns of a sum as a product: for fewer, onnxruntime has code for one row alone."""


def _check(model: Any, target: Target) -> None:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in _OPSETS:
            raise NoGradientError(
                f"its opset {opset.version} is not one of {_OPSETS[0]} to {_OPSETS[-1]}; {_IMPORT}"
            )
    for node in model.graph.node:
        if any(word in node.op_type.lower() for word in ("quantize", "qlinear", "integer")):
            raise NoGradientError(
                f"it is quantized, as by node {node.name!r} ({node.op_type}); explain the float32 "
                "file that it was made from"
            )
    if target.output not in {value.name for value in model.graph.output}:
        raise NoGradientError(f"it has no output {target.output!r}")
    for name in (name for node in model.graph.node for name in node.output):
        if name in names(target.output) or name.startswith(_PREFIX):
            raise NoGradientError(f"it has a tensor {name!r} already")


def _add_output(graph: Any, name: str, shape: Sequence[int]) -> None:
    rows = graph.output[0].type.tensor_type.shape.dim[0]
    tensor = graph.output.add(name=name).type.tensor_type
    tensor.elem_type = _FLOAT
    tensor.shape.dim.add().CopyFrom(rows)
    for size in shape:
        tensor.shape.dim.add(dim_value=size)


class _Matrix(NamedTuple):
    """A matrix that is multiplied from the right."""

    name: str
    values: Array
    """(in, out)"""
    transposed: bool
    """Whether it is (out, in) in the graph."""


_Factor: TypeAlias = _Matrix | Array
"""A matrix, one number, or one for each column (w,)."""

_Gradient: TypeAlias = str | Array
"""The name of a tensor, or what is the same for all rows."""


@dataclass(slots=True)
class _Tensor:
    """What is known of a tensor (N, w) of the model.

    At the points of the path it is a tensor (P, N w): onnxruntime repeats what is the same at all
    points along the first axis in a third of the time that it takes along one between two others.
    """

    width: int
    points: str = ""
    """The tensor at the points (P, N w); empty until it is needed."""
    base: Array | None = None
    """If the tensor is linear in the row, its value at the baseline (w,); else None."""
    change: str = ""
    """If it is, its value at the row less that: (N, w)."""
    along: list[_Gradient] = field(default_factory=list)
    """Derivatives of the target by it in each cell: (C, N w), or the same in all (w,)."""
    means: list[_Gradient] = field(default_factory=list)
    """Means of such over the path: (N, w), or (w,)."""


class _Graph:
    """A graph to which gradients are added."""

    def __init__(self, graph: Any, steps: int) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._kept: dict[tuple[Any, ...], str] = {}
        """Small constants that were added, by type, shape and values."""
        self._count = 0
        self._cells = steps
        self.paired = any(map(_is_kinked, graph.node))
        """Whether derivatives are means over cells, whose ends are the points."""
        if self.paired:
            self._points, weights = np.linspace(0, 1, steps + 1), np.full(steps, 1 / steps)
        else:
            self._points, weights = gauss(steps)
        self._weights = weights[np.newaxis]
        self.tensors: dict[str, _Tensor] = {}

    # Nodes of any kind.

    def node(
        self,
        operator: str,
        *inputs: str | NDArray[Any] | float,
        output: str = "",
        given: Iterable[Any] = (),
        **integers: int,
    ) -> str:
        """Add a node and return its output; floats and arrays become constants.

        given: Attributes of another node. integers: Attributes.
        """
        self._count += 1
        node = self._graph.node.add(op_type=operator, name=f"{_PREFIX}{operator}_{self._count}")
        node.input.extend(
            each if isinstance(each, str) else self._constant(each) for each in inputs
        )
        node.output.append(output or f"{_PREFIX}{self._count}")
        node.attribute.extend(given)
        for name, value in integers.items():
            node.attribute.add(name=name, type=_INT, i=int(value))
        return str(node.output[0])

    def _constant(self, value: NDArray[Any] | float) -> str:
        array = np.asarray(value)
        kind = _INT64 if array.dtype == np.int64 else _FLOAT
        raw = array.astype("<i8" if kind == _INT64 else "<f4").tobytes()
        key = (kind, array.shape, raw)
        if len(raw) <= _SMALL_BYTES and key in self._kept:
            return self._kept[key]
        self._count += 1
        name = f"{_PREFIX}constant_{self._count}"
        self._graph.initializer.add(name=name, data_type=kind, dims=array.shape, raw_data=raw)
        if len(raw) <= _SMALL_BYTES:
            self._kept[key] = name
        return name

    def part(
        self, tensor: str, start: int, count: int = 1, *, axis: int = 0, output: str = ""
    ) -> str:
        """Return a part of an axis."""
        cut = (np.array([i]) for i in (start, start + count, axis))
        return self.node("Slice", tensor, *cut, output=output)

    def row_sum(self, tensor: str, width: int, output: str = "") -> str:
        """Return the sum of each row: (N, width) -> (N, 1)."""
        # Not by ReduceSum, whose order depends on the number of rows.
        total = self.node("Gemm", tensor, np.ones((width, _WIDE)))
        return self.part(total, 0, axis=1, output=output)

    def rows(self, tensor: str, width: int) -> str:
        """Return (C, N w) as (C N, w)."""
        return self.node("Reshape", tensor, np.array([-1, width]))

    def path(self, tensor: str, points: int) -> str:
        """Return (C N, w) as (C, N w); points: C."""
        return self.node("Reshape", tensor, np.array([points, -1]))

    def _total(self, terms: Iterable[Any]) -> Any:
        """Return a sum; of what is the same for all rows, as an array."""
        total, *rest = terms
        for term in rest:
            if isinstance(total, str) or isinstance(term, str):
                total = self.node("Add", total, term)
            else:
                total = total + term
        return total

    # From the row to the answers.

    def begin(self, start: Start) -> None:
        """Take a tensor as the straight line from the baseline to the row."""
        change = self.node("Sub", start.tensor, start.base) if start.base.any() else start.tensor
        base = start.base.astype(np.float64)
        self.tensors[start.tensor] = _Tensor(len(base), base=base, change=change)

    def at_baseline(self, starts: Iterable[Start], nodes: Iterable[Any]) -> Mapping[str, str]:
        """Compute the model once more, at the baseline: the names of its tensors there (1, w).

        They depend on no input, so that onnxruntime computes them when it loads the file.
        """
        known = {start.tensor: self._constant(start.base[np.newaxis]) for start in starts}
        for node in nodes:
            known[node.output[0]] = self.node(
                node.op_type, *(known.get(name, name) for name in node.input), given=node.attribute
            )
        return known

    def forward(self, node: Any) -> None:
        """Compute what a node gives, along the path."""
        reads = [self.tensors[name] for name in node.input if name in self.tensors]
        if not reads or len(node.output) != 1 or node.domain not in ("", "ai.onnx"):
            raise _unknown(node)
        if any(tensor.width != reads[0].width for tensor in reads) and node.op_type not in (
            "Gemm",
            "Concat",
        ):
            raise _unknown(node)
        linear = self._linear(node)
        if linear is not None:
            self.tensors[node.output[0]] = self._sum(*linear)
            return
        width = reads[0].width
        points = [self.at_points(name) for name in node.input if name in self.tensors]
        if node.op_type in _SLOPES or (node.op_type == "Mul" and len(points) == 2):
            if node.op_type == "PRelu":
                along = self.node("PRelu", self.rows(points[0], width), self.row(node, 1))
                result = self.path(along, len(self._points))
            else:
                result = self.node(node.op_type, *points, given=node.attribute)
        elif node.op_type in _OVER_ROWS and _integer(node, "axis", -1) in (-1, 1):
            along = self.node(node.op_type, self.rows(points[0], width))
            result = self.path(along, len(self._points))
        elif node.op_type == _NORM and _integer(node, "axis", -1) in (-1, 1):
            scaled = list(node.input[1:])
            rows = self.rows(points[0], width)
            along = self.node(_NORM, rows, *scaled, given=node.attribute)
            result = self.path(along, len(self._points))
        else:
            raise _unknown(node)
        self.tensors[node.output[0]] = _Tensor(width, result)

    def at_points(self, name: str) -> str:
        """Return a tensor at the points of the path."""
        tensor = self.tensors[name]
        if not tensor.points and tensor.base is not None:
            start = self.node("Add", self.node("Mul", tensor.change, 0.0), tensor.base)
            change = self.node("Mul", self.path(tensor.change, 1), self._points.reshape(-1, 1))
            tensor.points = self.node("Add", change, self.path(start, 1))
        return tensor.points

    def _linear(self, node: Any) -> tuple[list[tuple[str, _Factor]], Array | None] | None:
        """Return a node that is linear in the tensors that it reads: its terms and its constant.

        None for a node that is not.
        """
        one = np.ones(())
        inputs = list(node.input)
        match node.op_type, [name in self.tensors for name in inputs]:
            case "Identity", [True]:
                return [(inputs[0], one)], None
            case "Add", [True, True]:
                return [(name, one) for name in inputs], None
            case "Sub", [True, True]:
                return [(inputs[0], one), (inputs[1], -one)], None
            case "Add", [True, False]:
                return [(inputs[0], one)], self.row(node, 1)
            case "Add", [False, True]:
                return [(inputs[1], one)], self.row(node, 0)
            case "Sub", [True, False]:
                return [(inputs[0], one)], -self.row(node, 1)
            case "Mul", [True, False]:
                return [(inputs[0], self.row(node, 1))], None
            case "Mul", [False, True]:
                return [(inputs[1], self.row(node, 0))], None
            case "Div", [True, False]:
                return [(inputs[0], 1 / self.row(node, 1))], None
            case "MatMul", [True, False]:
                return [(inputs[0], self._matrix(node, transposed=False))], None
            case "Slice", [True, False, False, False]:
                width = self.tensors[inputs[0]].width
                start, end, axis = (self._integer(node, index) for index in (1, 2, 3))
                if axis in (-1, 1):
                    return [(inputs[0], self._chosen(np.eye(width)[:, start:end]))], None
            case "Concat", [*read] if all(read) and _integer(node, "axis", 0) in (-1, 1):
                ends = np.cumsum([self.tensors[name].width for name in inputs])
                blocks = np.split(np.eye(ends[-1]), ends[:-1])
                pairs = zip(inputs, blocks, strict=True)
                return [(name, self._chosen(block)) for name, block in pairs], None
            case "Gemm", [True, False, *rest]:
                if _integer(node, "transA", 0) or any(
                    _number(node, name, 1.0) != 1 for name in ("alpha", "beta")
                ):
                    raise _unknown(node)
                matrix = self._matrix(node, transposed=bool(_integer(node, "transB", 0)))
                if rest == [True]:
                    return [(inputs[0], matrix), (inputs[2], one)], None
                return [(inputs[0], matrix)], self.row(node, 2) if rest else None
        return None

    def _chosen(self, columns: Array) -> _Matrix:
        """Return a matrix of zeros and ones that takes or places columns."""
        return _Matrix(self._constant(columns), columns, transposed=False)

    def _integer(self, node: Any, index: int) -> int:
        """Return the one integer of a constant."""
        tensor = self._constants.get(node.input[index])
        if tensor is None or tensor.data_type != _INT64 or [*tensor.dims] != [1]:
            raise _unknown(node)
        raw = tensor.raw_data or np.array(tensor.int64_data, "<i8").tobytes()
        return int.from_bytes(raw, "little", signed=True)

    def _array(self, node: Any, index: int) -> Array:
        tensor = self._constants.get(node.input[index])
        if tensor is None or tensor.data_type != _FLOAT or tensor.data_location:
            raise _unknown(node)
        return _values(tensor).astype(np.float64)

    def row(self, node: Any, index: int) -> Array:
        """Return a constant that is one number, or one for each column."""
        array = self._array(node, index)
        if array.size != (array.shape[-1] if array.ndim else 1):
            raise _unknown(node)
        return array.reshape(() if array.size == 1 else -1)

    def _matrix(self, node: Any, *, transposed: bool) -> _Matrix:
        array = self._array(node, 1)
        if array.ndim != 2:
            raise _unknown(node)
        return _Matrix(node.input[1], array.T if transposed else array, transposed)

    def _sum(self, terms: Sequence[tuple[str, _Factor]], constant: Array | None) -> _Tensor:
        tensors = [self.tensors[name] for name, _ in terms]
        (_, first), *_ = terms
        width = first.values.shape[1] if isinstance(first, _Matrix) else tensors[0].width
        if all(tensor.base is not None for tensor in tensors):
            parts = list(zip(tensors, terms, strict=True))
            bases = [_applied(tensor.base, factor) for tensor, (_, factor) in parts]
            base = sum(bases, np.zeros(width) if constant is None else constant)
            change = self._total(self._times(tensor.change, f) for tensor, (_, f) in parts)
            return _Tensor(width, base=np.broadcast_to(base, width), change=change)
        total: Any = constant
        for name, factor in terms:
            rows = self.rows(self.at_points(name), self.tensors[name].width)
            if isinstance(factor, _Matrix) and total is not None:
                total = self.node("Gemm", rows, factor.name, total, transB=factor.transposed)
            else:
                term = self._times(rows, factor)
                total = term if total is None else self.node("Add", term, total)
        return _Tensor(width, self.path(total, len(self._points)))

    def _times(self, rows: str, factor: _Factor, *, back: bool = False) -> str:
        if isinstance(factor, _Matrix):
            return self.node("Gemm", rows, factor.name, transB=factor.transposed != back)
        return rows if (factor == 1).all() else self.node("Mul", rows, factor)

    # Of cells.

    def _ends(self, points: str) -> list[str]:
        """Return a tensor at both ends of each cell; at the points, if there are no cells."""
        if not self.paired:
            return [points]
        return [self.part(points, first, self._cells) for first in (0, 1)]

    def mean(self, points: str) -> str:
        """Return the mean of a tensor over each cell, from its ends: (C, N w)."""
        ends = self._ends(points)
        return self.node("Mul", self.node("Add", *ends), 0.5) if self.paired else points

    def above_zero(
        self, tensor: _Tensor, factor: float = 1.0, offset: float = 0.0, relu: str = ""
    ) -> str:
        """Return the part of each cell in which z factor + offset is above 0: (C, N w).

        relu: The relu of that, if it is there.
        """
        if tensor.base is not None:
            # It changes by as much in every cell, so that the part is linear in the cell, cut off.
            change = self.node("Mul", tensor.change, factor / self._cells)
            span = self.node("Add", self.node("Abs", change), _TINY)
            base = factor * tensor.base + offset
            first = self.node("Div", self.node("Add", self.node("Relu", change), base), span)
            step = self.path(self.node("Div", change, span), 1)
            later = self.node("Mul", step, np.arange(self._cells, dtype=float).reshape(-1, 1))
            return self.node("Clip", self.node("Add", later, self.path(first, 1)), 0.0, 1.0)
        z = tensor.points
        if factor != 1:
            z = self.node("Mul", z, factor)
        if offset:
            z = self.node("Add", z, offset)
        positive = self.node("Add", *self._ends(relu or self.node("Relu", z)))
        magnitude = self.node("Add", *self._ends(self.node("Abs", z)))
        return self.node("Div", positive, self.node("Add", magnitude, _TINY))

    def add_rows(self, tensor: str, width: int, factor: Array, constant: Array) -> str:
        """Return factor times (C, N w) plus a constant, with numbers for each column (w,)."""
        rows = self.node("Add", self.node("Mul", self.rows(tensor, width), factor), constant)
        return self.path(rows, self._cells)

    # From the target back to the row.

    def backward(self, node: Any) -> None:
        """Pass the derivative by what a node gives on to what it reads."""
        result = self.tensors[node.output[0]]
        if not (result.along or result.means):
            return
        linear = self._linear(node)
        if linear is not None:
            self._backward_linear(result, linear[0])
            return
        upstream = self._along(result)
        reads = [name for name in node.input if name in self.tensors]
        tensor, width = self.tensors[reads[0]], result.width
        if node.op_type == "Mul":
            for name, other in (reads, reads[::-1]):
                slope = self.mean(self.at_points(other))
                self.tensors[name].along.append(self._product(upstream, slope, width))
        elif node.op_type in _OVER_ROWS:
            tensor.along.append(self._over_rows(node, result, upstream))
        elif node.op_type == _NORM:
            tensor.along.append(self._norm(node, upstream, width))
        else:
            slope = _SLOPES[node.op_type](self, node, tensor, result)
            tensor.along.append(self._product(upstream, slope, width))

    def _product(self, upstream: _Gradient, slope: str, width: int) -> str:
        if isinstance(upstream, str):
            return self.node("Mul", upstream, slope)
        return self.path(self.node("Mul", self.rows(slope, width), upstream), self._cells)

    def _over_rows(self, node: Any, result: _Tensor, upstream: _Gradient) -> str:
        """Return the derivative by z, from that by a, a softmax or its logarithm: (C, N w)."""
        if isinstance(upstream, str):
            # Another layer reads it.
            by = self.rows(upstream, result.width)
            ends = [
                self._over_rows_at(node, end, by, result.width) for end in self._ends(result.points)
            ]
            both = self.node("Mul", self._total(ends), 0.5) if self.paired else ends[0]
            return self.path(both, self._cells)
        a = self.rows(result.points, result.width)
        if node.op_type == "Softmax":
            others = np.outer(-upstream, np.ones(result.width))
            by = self.node("Mul", a, self.node("Gemm", a, others, upstream))
        else:
            share = self.node("Mul", self.node("Exp", a), -upstream.sum())
            by = self.node("Add", share, upstream)
        return self.mean(self.path(by, len(self._points)))

    def _over_rows_at(self, node: Any, end: str, by: str, width: int) -> str:
        """Return the same at one end of the cells, from the derivative by a: (C N, w)."""
        a, across = self.rows(end, width), np.ones((width, width))
        # A sum as a product: see `explained`.
        if node.op_type == "Softmax":
            total = self.node("Gemm", self.node("Mul", a, by), across)
            return self.node("Mul", a, self.node("Sub", by, total))
        total = self.node("Gemm", by, across)
        return self.node("Sub", by, self.node("Mul", self.node("Exp", a), total))

    def _norm(self, node: Any, upstream: _Gradient, width: int) -> str:
        """Return the derivative by z, from that by its layer normalization: (C, N w)."""
        scale = self.row(node, 1)
        if isinstance(upstream, str):
            by: _Gradient = self.node("Mul", self.rows(upstream, width), scale)
        else:
            by = upstream * scale
        points = self.at_points(node.input[0])
        ends = [self._norm_at(node, self.rows(end, width), by) for end in self._ends(points)]
        both = self.node("Mul", self._total(ends), 0.5) if self.paired else ends[0]
        return self.path(both, self._cells)

    def _norm_at(self, node: Any, z: str, by: _Gradient) -> str:
        """Return the same at one end of the cells, from the derivative by x, which is d / s."""
        d = self.node("Sub", z, self._mean_of(z, node))
        variance = self._mean_of(self.node("Mul", d, d), node)
        s = self.node("Sqrt", self.node("Add", variance, _number(node, "epsilon", 1e-5)))
        x = self.node("Div", d, s)
        mean = self._mean_of(by, node) if isinstance(by, str) else by.mean()
        along = self.node("Mul", x, self._mean_of(self.node("Mul", x, by), node))
        return self.node("Div", self.node("Sub", self.node("Sub", by, mean), along), s)

    def _mean_of(self, rows: str, node: Any) -> str:
        """Return the mean of each row as a product: (N, 1). See `explained` for why."""
        width = self.tensors[node.input[0]].width
        return self.part(self.node("Gemm", rows, np.full((width, _WIDE), 1 / width)), 0, axis=1)

    def _along(self, tensor: _Tensor) -> _Gradient:
        """Return the derivative by a tensor in each cell: (C, N w), or (w,)."""
        parts = [each for each in tensor.along if isinstance(each, str)]
        same = [each for each in tensor.along if not isinstance(each, str)]
        if not (parts and same):
            total: _Gradient = self._total(parts or same)
            return total
        rows = self.rows(self._total(parts), tensor.width)
        return self.path(self.node("Add", rows, self._total(same)), self._cells)

    def _backward_linear(self, result: _Tensor, terms: Sequence[tuple[str, _Factor]]) -> None:
        along = self._along(result) if result.along else None
        mean: _Gradient | None = None
        for name, factor in terms:
            tensor = self.tensors[name]
            if tensor.base is not None:
                mean = self.path_mean(result) if mean is None else mean
                tensor.means.append(self._back(mean, factor))
            elif isinstance(along, str):
                rows = self._back(self.rows(along, result.width), factor)
                tensor.along.append(self.path(rows, self._cells))
            else:
                tensor.along.append(self._back(along, factor))

    def _back(self, gradient: Any, factor: _Factor) -> Any:
        if isinstance(gradient, str):
            return self._times(gradient, factor, back=True)
        return gradient @ factor.values.T if isinstance(factor, _Matrix) else gradient * factor

    def path_mean(self, tensor: _Tensor) -> _Gradient:
        """Return the mean of the derivative by a tensor over the path: (N, w), or (w,)."""
        terms = list(tensor.means)
        if tensor.along:
            along = self._along(tensor)
            terms.append(along if not isinstance(along, str) else self._averaged(along, tensor))
        result: _Gradient = self._total(terms) if terms else np.zeros(tensor.width)
        return result

    def contribution(self, start: Start, output: str = "") -> str:
        """Return the attributions of an input: (N, columns)."""
        tensor = self.tensors[start.tensor]
        summed = start.columns < tensor.width
        mean = self.path_mean(tensor)
        each = self.node("Mul", tensor.change, mean, output="" if summed else output)
        return self.row_sum(each, tensor.width, output) if summed else each

    def _averaged(self, along: str, tensor: _Tensor) -> str:
        return self.rows(self.node("Gemm", self._weights, along), tensor.width)


def _applied(values: Any, factor: _Factor) -> Any:
    return values @ factor.values if isinstance(factor, _Matrix) else values * factor


def _values(tensor: Any) -> Floats:
    values = (
        np.frombuffer(tensor.raw_data, "<f4")
        if tensor.HasField("raw_data")
        else np.array(tensor.float_data, np.float32)
    )
    return values.reshape(tuple(tensor.dims))


def _integers(tensor: Any) -> NDArray[np.int64]:
    return (
        np.frombuffer(tensor.raw_data, "<i8")
        if tensor.HasField("raw_data")
        else np.array(tensor.int64_data, np.int64)
    )


def _number(node: Any, name: str, default: float) -> float:
    return next((float(each.f) for each in node.attribute if each.name == name), default)


def _integer(node: Any, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def _unknown(node: Any) -> NoGradientError:
    return NoGradientError(
        f"node {node.name!r} ({node.op_type}) is not one whose gradient is known; {_IMPORT}"
    )


def _is_kinked(node: Any) -> bool:
    if node.op_type == "Elu":
        return _number(node, "alpha", 1.0) != 1
    return node.op_type in ("Relu", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Selu")


# Of a node y = f(x), the mean of f' over each cell, from x and y: (C, N w).


def _leaky_relu(graph: _Graph, node: Any, x: _Tensor, _: _Tensor) -> str:
    below = _number(node, "alpha", 0.01)
    return graph.node("Add", graph.node("Mul", graph.above_zero(x), 1 - below), below)


def _prelu(graph: _Graph, node: Any, x: _Tensor, _: _Tensor) -> str:
    below = graph.row(node, 1)
    return graph.add_rows(graph.above_zero(x), x.width, 1 - below, below)


def _hard_sigmoid(graph: _Graph, node: Any, x: _Tensor, _: _Tensor) -> str:
    return _between(graph, x, _number(node, "alpha", 0.2), _number(node, "beta", 0.5))


def _between(graph: _Graph, x: _Tensor, factor: float, offset: float) -> str:
    """Return the mean slope of factor x + offset, clipped to 0 and 1."""
    ends = [graph.above_zero(x, factor, offset - end) for end in (0, 1)]
    return graph.node("Mul", graph.node("Sub", *ends), factor)


def _hard_swish(graph: _Graph, node: Any, x: _Tensor, _: _Tensor) -> str:
    # It is x times a hard sigmoid: the change of a product is each change times the other's mean.
    points = graph.at_points(node.input[0])
    shares = graph.node("Clip", graph.node("Add", graph.node("Mul", points, 1 / 6), 0.5), 0.0, 1.0)
    slope = graph.node("Mul", graph.mean(points), _between(graph, x, 1 / 6, 0.5))
    return graph.node("Add", graph.mean(shares), slope)


def _elu(graph: _Graph, node: Any, x: _Tensor, y: _Tensor) -> str:
    alpha, scale = _number(node, "alpha", 1.0), 1.0
    if node.op_type == "Selu":
        scale = _number(node, "gamma", _SELU_SCALE)
        alpha = scale * _number(node, "alpha", _SELU_ALPHA)
    below = graph.node("Add", graph.mean(graph.node("Min", y.points, 0.0)), alpha)
    if not graph.paired:
        return below
    above = graph.node("Mul", graph.above_zero(x), graph.node("Sub", scale, below))
    return graph.node("Add", below, above)


def _sigmoid(graph: _Graph, _: Any, __: _Tensor, y: _Tensor) -> str:
    return graph.mean(graph.node("Mul", y.points, graph.node("Sub", 1.0, y.points)))


def _tanh(graph: _Graph, _: Any, __: _Tensor, y: _Tensor) -> str:
    return graph.mean(graph.node("Sub", 1.0, graph.node("Mul", y.points, y.points)))


def _softplus(graph: _Graph, node: Any, _: _Tensor, __: _Tensor) -> str:
    return graph.mean(graph.node("Sigmoid", graph.at_points(node.input[0])))


def _softsign(graph: _Graph, _: Any, __: _Tensor, y: _Tensor) -> str:
    share = graph.node("Sub", 1.0, graph.node("Abs", y.points))
    return graph.mean(graph.node("Mul", share, share))


def _erf(graph: _Graph, node: Any, _: _Tensor, __: _Tensor) -> str:
    points = graph.at_points(node.input[0])
    square = graph.node("Mul", graph.node("Mul", points, points), -1.0)
    return graph.mean(graph.node("Mul", graph.node("Exp", square), 2 / math.sqrt(math.pi)))


_SLOPES: Mapping[str, Callable[[_Graph, Any, _Tensor, _Tensor], str]] = {
    "Relu": lambda graph, _, x, y: graph.above_zero(x, relu=y.points),
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Elu": _elu,
    "Selu": _elu,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
    "Exp": lambda graph, _, __, y: graph.mean(y.points),
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Erf": _erf,
}
_OVER_ROWS = ("Softmax", "LogSoftmax")
_NORM = "LayerNormalization"
