"""What a page draws of a model: tensors, and the matrices between them, read from its graph.

Of a sum and what is done element by element after it, the last tensor is drawn; besides, each
tensor that something else reads, and each output. What is drawn is a float tensor of rank 2 whose
width is known; the others are passed through.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.server.engine.row_wise import ELEMENTWISE, integer
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.onnx_messages import GraphProto, NodeProto, TensorProto, ValueInfoProto
from forwardpass.server.rpc.page.constants import Constants, Matrix

_MAX_WEIGHTS = 40_000
"""Maximum number of entries of a matrix that is shown."""
_MAX_ALL_WEIGHTS = 2**18
"""Maximum number of entries of all of them."""
_MAX_TENSORS = 2**9
"""Maximum number of tensors that are drawn."""
_MAX_EDGES = 2**12
"""Maximum number of edges that are drawn: each is some lines in a browser."""
_MAX_STEPS = 2**12
"""Maximum number of tensors that are passed through on the way to one that is drawn."""
_MAX_ALL_STEPS = 2**17
"""Maximum number of them on the way to all that are drawn."""

_PASSIVE = frozenset(
    ("Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear")
)
"""Operators that leave the numbers as they are, but for rounding."""
_COMPOSED = frozenset(("Gelu", "Mish", "Swish"))
"""Functions of several nodes, by which files of Forwardpass name the last of them."""
_SUMS = frozenset(("Add", "Sub", "Sum")) | _PASSIVE
"""Operators after which a weighted sum is still one."""
_SCALES = frozenset(("Add", "Clip", "Div", "Mul", "Sub")) | _PASSIVE
"""Operators that scale an input; what comes out stands for the input."""
_ROW_BY_ROW = (
    frozenset(ELEMENTWISE)
    | frozenset(("BatchNormalization", "Hardmax", "LayerNormalization", "LogSoftmax", "Softmax"))
    | _PASSIVE
)
"""Operators whose output has the width of their input."""
_NOT_FLOATS = frozenset(
    (
        "And",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "QuantizeLinear",
        "Xor",
    )
)
_FLOATS = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16))
_RANK = 2


class TooManyTensorsError(Exception):
    """A graph has more tensors, or edges between them, than are drawn."""


class DrawnTensor(NamedTuple):
    """A tensor that is drawn."""

    name: str
    title: str
    size: int
    """Number of its columns."""
    kind: str
    """The operator that gives it."""
    depth: int
    """Longest way from an input, in tensors; 1 or more."""


class Edge(NamedTuple):
    """A tensor that another one is computed from."""

    source: str
    target: str
    weights: NDArray[Any] | None
    """(columns of the target, columns of the source); None: no matrix alone, or too large."""


class Anatomy(NamedTuple):
    """What is drawn of a model."""

    tensors: Sequence[DrawnTensor]
    """In the order of the graph, without inputs, with outputs."""
    edges: Sequence[Edge]
    importance: Mapping[str, NDArray[np.float64]]
    """By input: a number for each column, of those whose first matrices are known."""


def read_anatomy(
    graph: GraphProto,
    content: ModelBytes,
    columns: Mapping[str, ColumnNames],
    layers: Collection[str],
) -> Anatomy:
    """Read what is drawn.

    columns: The names of the inputs' columns, with their ranges. layers: Names of layers, which
    nodes of our files begin with.

    Raises TooManyTensorsError.
    """
    reader = _Reader(graph, content)
    tensors, edges = reader.drawn(layers)
    return Anatomy(tensors, edges, reader.importance(columns))


class _Reader:
    def __init__(self, graph: GraphProto, content: ModelBytes) -> None:
        self._graph = graph
        self._constants = Constants(graph, content)
        self._outputs = {value.name for value in graph.output}
        self._declared = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._uses = Counter(name for node in graph.node for name in set(node.input) if name)
        self._widths: dict[str, int] = {}
        self._floats: set[str] = set()
        self._producers: dict[str, NodeProto] = {}
        """By tensor that is computed from inputs, in the order of the graph."""
        self._matrices: dict[str, Matrix] = {}
        """By the tensor that a product gives."""
        self._groups: dict[str, int] = {}
        """A group is a sum and what is done with it element by element; see `_group`."""
        self._wholes: dict[int, int] = {}
        """By group that is a part of another: that one."""
        self._shared: set[int] = set()
        """Groups of which something is read elsewhere, or is an output."""
        self._bases: dict[str, str] = {}
        self._made = 0
        self._linear: set[int] = set()
        """Groups that are nothing but sums so far."""
        self._scales: dict[str, Any] = {}
        """By tensor that stands for an input: what it is divided by."""
        self._joined_again: dict[str, str] = {}
        """By tensor that has a softmax over each group of another one's columns: that one."""
        self._steps_left = _MAX_ALL_STEPS
        self._inputs = [
            value.name for value in graph.input if value.name not in self._constants.names
        ]
        for name in self._inputs:
            self._join(name, self._new_group())
            self._scales[name] = 1.0
            self._note(name, None, is_float=True)
        for node in graph.node:
            self._take(node)

    # Reading the graph

    def _new_group(self, *, linear: bool = False) -> int:
        self._made += 1
        if linear:
            self._linear.add(self._made)
        return self._made

    def _join(self, name: str, group: int) -> None:
        self._groups[name] = group
        if self._uses[name] != 1 or name in self._outputs:
            self._shared.add(group)

    def _group(self, name: str) -> int:
        """Return the group of a tensor that is no part of another."""
        group = found = self._groups[name]
        while found in self._wholes:
            found = self._wholes[found]
        # The next walk is short: a sum may have thousands of parts.
        while group != found:
            self._wholes[group], group = found, self._wholes[group]
        return found

    def _take(self, node: NodeProto) -> None:
        reads = [name for name in node.input if name in self._groups]
        gives = [name for name in node.output if name]
        if not reads:
            self._constants.computed(node)
            return
        for name in gives:
            self._producers[name] = node
        matrix = self._matrix(node)
        if matrix is not None:
            group = self._new_group(linear=True)
            self._absorb([name for name in reads if name != matrix.reads], group)
            self._matrices[gives[0]] = matrix
            width: int | None = self._constants.matrix_shape(matrix)[0]
        elif self._is_row_by_row(node, reads):
            group = self._joined(node, reads)
            width = self._width_of(node, reads)
        elif (whole := self._cut_and_joined(node)) is not None:
            group, width = self._group(whole), self._widths[whole]
            self._linear.discard(group)
            self._joined_again[gives[0]] = whole
        else:
            group, width = -1, self._concatenated(node, reads)
        is_float = node.op_type not in _NOT_FLOATS and any(r in self._floats for r in reads)
        if node.op_type == "DequantizeLinear":
            is_float = True
        for index, name in enumerate(gives):
            own = group < 0 or index > 0
            self._join(name, self._new_group() if own else group)
            self._note(name, None if index else width, is_float=is_float)

    def _note(self, name: str, width: int | None, *, is_float: bool) -> None:
        """Note what is known of a tensor; what the file declares goes first."""
        declared = self._declared.get(name)
        if declared is not None and declared.type.tensor_type.elem_type:
            is_float = declared.type.tensor_type.elem_type in _FLOATS
        found = width if declared is None else _width(declared) or width
        if found is not None:
            self._widths[name] = found
        if is_float:
            self._floats.add(name)

    def _matrix(self, node: NodeProto) -> Matrix | None:
        if node.op_type not in ("Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
            return None
        first, second = (*node.input, "", "")[:2]
        if first not in self._groups or second in self._groups or integer(node, "transA", 0):
            return None
        if node.op_type == "MatMul" and first not in self._widths:
            return None
        shape = self._constants.shape(second)
        if shape is None or len(shape) != _RANK:
            return None
        return Matrix(node, first, second)

    def _is_row_by_row(self, node: NodeProto, reads: Sequence[str]) -> bool:
        if node.op_type == "Flatten":
            return integer(node, "axis", 1) == 1 and reads[0] in self._widths
        if node.op_type == "Dropout":
            return node.input[0] in self._groups
        return node.op_type in _ROW_BY_ROW and node.domain in ("", "ai.onnx")

    def _joined(self, node: NodeProto, reads: Sequence[str]) -> int:
        """Return the group of the output of an operator that goes element by element."""
        if self._fills(node):
            filled = node.input[2]
            self._scales[node.output[0]] = self._scales[filled]
            return self._group(filled)
        groups = {self._group(name) for name in reads}
        if len(groups) == 1:
            (group,) = groups
            if self._is_scaled(reads[0]):
                if node.op_type not in _SCALES or len(set(reads)) > 1:
                    return self._new_group()
                self._scales[node.output[0]] = self._scaled(node, reads[0])
            elif node.op_type not in _SUMS or len(reads) > 1:
                self._linear.discard(group)
            return group
        group = self._new_group(linear=True)
        if node.op_type not in ("Add", "Sum") or not self._absorb(reads, group):
            self._linear.discard(group)
        return group

    def _is_scaled(self, name: str) -> bool:
        return name in self._scales

    def _fills(self, node: NodeProto) -> bool:
        """Return whether a node puts constants in place of an input's missing numbers."""
        if node.op_type != "Where" or node.input[1] in self._groups:
            return False
        asked = self._producers.get(node.input[0])
        return (
            asked is not None
            and asked.op_type == "IsNaN"
            and asked.input[0] == node.input[2]
            and self._is_scaled(node.input[2])
        )

    def _absorb(self, reads: Sequence[str], group: int) -> bool:
        """Make sums that are read here alone a part of this group; return whether there are any."""
        found = False
        for name in reads:
            other = self._group(name)
            if other in self._linear and other != group and other not in self._shared:
                self._wholes[other] = group
                found = True
        return found

    def _width_of(self, node: NodeProto, reads: Sequence[str]) -> int | None:
        widths = [self._widths.get(name) for name in reads]
        if None in widths:
            return None
        if node.op_type in ELEMENTWISE:
            for name in node.input:
                shape = self._constants.shape(name) if name and name not in reads else ()
                if shape is None or len(shape) > _RANK:
                    return None
                widths.append(shape[-1] if shape else 1)
        return max(width for width in widths if width is not None)

    def _concatenated(self, node: NodeProto, reads: Sequence[str]) -> int | None:
        widths = [self._widths.get(name) for name in node.input]
        known = [width for width in widths if width is not None]
        if node.op_type != "Concat" or len(known) < len(widths):
            return None
        return sum(known) if integer(node, "axis", 0) in (1, -1) and reads else None

    def _cut_and_joined(self, node: NodeProto) -> str | None:
        """Return the tensor of whose groups of columns a node joins the softmaxes; None if none."""
        if node.op_type != "Concat" or integer(node, "axis", 0) not in (1, -1):
            return None
        shares = [self._producers.get(name) for name in node.input]
        parts = [
            self._producers.get(share.input[0])
            for share in shares
            if share is not None and share.op_type == "Softmax"
        ]
        cuts = [part for part in parts if part is not None and part.op_type == "Slice"]
        wholes = {cut.input[0] for cut in cuts}
        if len(cuts) < len(node.input) or len(wholes) != 1:
            return None
        (whole,) = wholes
        ends = [0]
        for cut in cuts:
            start, end, axis = (self._integer(name) for name in (*cut.input, *[""] * 4)[1:4])
            if start != ends[-1] or end is None or axis not in (1, -1):
                return None
            ends.append(end)
        if ends[-1] != self._widths.get(whole) or whole not in self._groups:
            return None
        if self._is_scaled(whole):
            return None
        group = self._group(whole)
        for name in (*node.input, *(cut.output[0] for cut in cuts)):
            if self._group(name) != group:
                self._wholes[self._group(name)] = group
        return whole

    def _integer(self, name: str) -> int | None:
        value = self._constants.value(name) if name else None
        return int(value.item()) if value is not None and value.size == 1 else None

    def _scaled(self, node: NodeProto, source: str) -> Any:
        """Return what an input is divided by once a node has scaled it."""
        before = self._scales[source]
        if node.op_type not in ("Div", "Mul"):
            return before
        constant = next((name for name in node.input if name != source), "")
        value = self._constants.value(constant)
        if value is None or value.size not in (1, self._widths.get(source, 1)):
            return before
        if not self._constants.fits(value.size):
            # The importance of what is not finite is not shown.
            return math.nan
        factor = value.astype(np.float64).reshape(-1)
        with np.errstate(all="ignore"):
            return before * factor if node.op_type == "Div" else before / factor

    # What is drawn

    def drawn(self, layers: Collection[str]) -> tuple[list[DrawnTensor], list[Edge]]:
        """Return the tensors and the edges between them."""
        names = self._drawn_names()
        if len(names) > _MAX_TENSORS:
            raise TooManyTensorsError(f"it has {len(names)} tensors, more than {_MAX_TENSORS}")
        titles = self._titles(names, layers)
        tensors: list[DrawnTensor] = []
        edges: list[Edge] = []
        depths = dict.fromkeys(self._inputs, 0)
        products: dict[int, str] = {}
        for name, matrix in self._matrices.items():
            products.setdefault(self._group(name), matrix.node.op_type)
        left = _MAX_ALL_WEIGHTS
        for name in names:
            sources = self._sources(name, depths)
            for source, ways in sources.items():
                weights = self._weights(ways, left)
                left -= 0 if weights is None else weights.size
                edges.append(Edge(source, name, weights))
            if len(edges) > _MAX_EDGES:
                raise TooManyTensorsError(f"it has more than {_MAX_EDGES} edges between tensors")
            depths[name] = 1 + max((depths[source] for source in sources), default=0)
            kind = self._kind(name, products)
            tensors.append(DrawnTensor(name, titles[name], self._widths[name], kind, depths[name]))
        return tensors, edges

    def _drawn_names(self) -> list[str]:
        """Return the tensors that are drawn, in the order of the graph."""
        wanted = set(self._outputs)
        for node in self._graph.node:
            for name in node.input:
                if name in self._producers and not self._is_scaled(name):
                    group = self._group(name)
                    if any(each and self._group(each) != group for each in node.output):
                        wanted.add(self._base(name))
        return [
            name
            for name in self._producers
            if name in wanted and name in self._floats and name in self._widths
        ]

    def _base(self, name: str) -> str:
        """Return the tensor whose numbers a tensor has, but for rounding."""
        passed: list[str] = []
        while name not in self._outputs and name not in self._bases:
            node = self._producers.get(name)
            if node is None or node.op_type not in _PASSIVE:
                break
            before = node.input[0]
            if before not in self._producers or self._group(before) != self._group(name):
                break
            passed.append(name)
            name = before
        base = self._bases.get(name, name)
        self._bases.update(dict.fromkeys(passed, base))
        return base

    def _sources(self, target: str, known: Collection[str]) -> dict[str, set[str | None]]:
        """Return the drawn tensors and inputs that a tensor is computed from.

        With the matrices on the way, by the tensors that they give: None: no matrix, and an empty
        name: something else, or several.
        """
        found: dict[str, set[str | None]] = {}
        waiting: list[tuple[str, str | None]] = [(target, None)]
        seen = set(waiting)
        most = min(self._steps_left, _MAX_STEPS)
        while waiting and len(seen) < most:
            name, way = waiting.pop()
            node = self._producers[name]
            matrix = self._matrices.get(name)
            again = self._joined_again.get(name)
            for read in dict.fromkeys(node.input if again is None else (again,)):
                if read not in self._groups:
                    continue
                through = way
                if matrix is not None and read == matrix.reads:
                    alone = way is None and list(node.input).count(read) == 1
                    through = name if alone else ""
                elif matrix is None and again is None and node.op_type not in _ROW_BY_ROW:
                    through = ""
                if read in known:
                    found.setdefault(read, set()).add(through)
                elif read in self._producers and (read, through) not in seen:
                    seen.add((read, through))
                    waiting.append((read, through))
        self._steps_left -= len(seen)
        return {name: found[name] for name in known if name in found}

    def _weights(self, ways: Collection[str | None], left: int) -> NDArray[Any] | None:
        way = next(iter(ways))
        if len(ways) > 1 or not way:
            return None
        matrix = self._matrices[way]
        if math.prod(self._constants.matrix_shape(matrix)) > min(left, _MAX_WEIGHTS):
            return None
        return self._constants.matrix(matrix)

    def _titles(self, names: Sequence[str], layers: Collection[str]) -> dict[str, str]:
        """Return the name of the layer for the last tensor of each, and else the tensor's own."""
        titles = {name: name for name in names}
        named = {
            self._group(name): matrix.node.name.rpartition("/")[0]
            for name, matrix in self._matrices.items()
        }
        last = {
            self._group(name): name for name in names if self._producers[name].op_type != "Identity"
        }
        for group, name in last.items():
            if named.get(group) in layers:
                titles[name] = named[group]
        return titles

    def _kind(self, name: str, products: Mapping[int, str]) -> str:
        """Return the operator that gives a tensor; products: The first product of each group."""
        node, group = self._producers[name], self._group(name)
        operator = node.op_type
        if name in self._joined_again:
            return "Softmax"
        if node.name.rpartition("/")[2] in _COMPOSED:
            return node.name.rpartition("/")[2]
        if operator in ("Add", "Sum") and group in self._linear:
            # The bias of a product.
            return products.get(group, operator)
        return operator

    def importance(self, columns: Mapping[str, ColumnNames]) -> dict[str, NDArray[np.float64]]:
        """Return for each column of an input how much it moves what the first layers add up.

        Over its range, where the file has one; else by one step of its scaling.
        """
        sums: dict[str, NDArray[np.float64]] = {}
        inputs = {self._group(name): name for name in self._inputs}
        for matrix in self._matrices.values():
            scaled = self._is_scaled(matrix.reads)
            source = inputs[self._group(matrix.reads)] if scaled else None
            W = None if source is None else self._constants.matrix(matrix)
            if source is None or W is None:
                continue
            with np.errstate(all="ignore"):
                moves = np.abs(W.astype(np.float64)).sum(axis=0)
                names = columns.get(source, ColumnNames())
                if len(names.low) == len(moves):
                    span = np.array(names.high) - np.array(names.low)
                    moves = moves * span / np.abs(self._scales[matrix.reads])
            if source in sums and sums[source].shape != moves.shape:
                continue
            sums[source] = sums.get(source, 0.0) + moves
        return {name: moves for name, moves in sums.items() if np.isfinite(moves).all()}


def _width(value: ValueInfoProto) -> int | None:
    """Return the number of columns that a file declares; None unless it is a table of so many."""
    axes = value.type.tensor_type.shape.dim
    return axes[1].dim_value or None if len(axes) == _RANK else None


def parts(anatomy: Anatomy, listed: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of the JSON; listed: makes lists of arrays."""
    yield "tensors", [tensor._asdict() for tensor in anatomy.tensors]
    yield (
        "edges",
        [
            {
                "from": edge.source,
                "to": edge.target,
                "weights": None if edge.weights is None else listed(edge.weights),
            }
            for edge in anatomy.edges
        ],
    )
    yield (
        "importance",
        {name: listed(moves.astype(np.float32)) for name, moves in anatomy.importance.items()},
    )
