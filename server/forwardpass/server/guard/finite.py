"""Weights are finite; other constants need not be.

A mask is -inf before a softmax, a Clip may have no upper bound, and a tree writes NaN between its
sets: what a constant may be depends on what reads it. So each constant with a NaN or an infinity
is followed to where it is read; as a weight it is the sign of a network that went wrong in
training, and would answer every row with a number that means nothing.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from forwardpass.server.guard.canonical import node_graphs
from forwardpass.server.guard.errors import GuardError, node_part
from forwardpass.server.onnx_messages import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
)

_FIX = "train the network again, or export it from a good checkpoint"

_PRODUCTS: Mapping[str, range] = {
    "MatMul": range(2),
    "Gemm": range(3),
    "Conv": range(1, 3),
    "ConvTranspose": range(1, 3),
    "Einsum": range(256),
    "FusedConv": range(1, 4),
    "FusedGemm": range(3),
    "FusedMatMul": range(2),
}
"""Operators that multiply rows with weights -> the indices of inputs that are weights or a bias."""

_WEIGHTS: Mapping[str, Sequence[int]] = {
    **_PRODUCTS,
    "RNN": (1, 2, 3, 5),
    "GRU": (1, 2, 3, 5),
    "LSTM": (1, 2, 3, 5, 6, 7),
    "BatchNormalization": range(1, 5),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
    "PRelu": (1,),
    "DequantizeLinear": (1,),
    "QuantizeLinear": (1,),
    "DynamicQuantizeMatMul": (2, 4),
    "MatMulIntegerToFloat": (2, 3, 6),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
}
_WEIGHT_ATTRIBUTES = frozenset(
    {
        ("Scaler", "offset"),
        ("Scaler", "scale"),
        ("LinearClassifier", "coefficients"),
        ("LinearClassifier", "intercepts"),
        ("LinearRegressor", "coefficients"),
        ("LinearRegressor", "intercepts"),
        ("TreeEnsemble", "leaf_weights"),
        ("TreeEnsembleClassifier", "base_values_as_tensor"),
        ("TreeEnsembleClassifier", "class_weights_as_tensor"),
        ("TreeEnsembleRegressor", "base_values_as_tensor"),
        ("TreeEnsembleRegressor", "target_weights_as_tensor"),
    }
)
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_SAME_VALUES = frozenset(
    """
    Cast CastLike Concat DequantizeLinear Expand Flatten Gather Identity Reshape Slice Split
    Squeeze Tile Transpose Unsqueeze
    """.split()  # noqa: SIM905 - a list to read
)
"""Operators whose results are values of their first input, or, for Concat, of all inputs."""

_Place = tuple[int, str]
"""A tensor: the number of the graph that defines it, and its name there."""


class Unfinite(NamedTuple):
    """A constant with a NaN or an infinity."""

    tensor: TensorProto
    part: str
    """The name of the constant in an error."""
    found: str
    """The first such value and the number of elements, as in `-inf among its 6`."""


def check_weights(model: ModelProto, unfinite: Sequence[Unfinite]) -> None:
    """Raise GuardError if one of the constants is a weight, or an attribute holds such a weight."""
    flow = _Flow(model, unfinite)
    if not flow.wrong:
        return
    marked = flow.reached(flow.wrong)
    products = flow.reached(flow.products(flow.reached(flow.constants)))
    for scope, node in flow.nodes:
        weights = _WEIGHTS.get(node.op_type, ())
        arithmetic = node.op_type in _ARITHMETIC
        after = arithmetic and any(flow.place(scope, name) in products for name in node.input)
        for index, name in enumerate(node.input):
            source = marked.get(flow.place(scope, name)) if name else None
            if source is None:
                continue
            part, found = flow.wrong[source]
            # No number is right after arithmetic with a NaN; an infinity may be a mask there.
            if index in weights or after or (arithmetic and "nan" in found.lower()):
                raise weights_error(part, f"{found}, read by {node_part(node)}")


def weights_error(part: str, got: str) -> GuardError:
    """Return the error for weights that are not finite."""
    return GuardError(part, expected="finite weights", got=got, fix=_FIX)


class _Flow:
    """The tensors that pass their values on to others, through all graphs and functions."""

    def __init__(self, model: ModelProto, unfinite: Sequence[Unfinite]) -> None:
        self.nodes: list[tuple[int, NodeProto]] = []
        """All nodes, each with the number of its graph."""
        self.constants: list[_Place] = []
        self.wrong: dict[_Place, tuple[str, str]] = {}
        """The constants that are not finite -> the name of each in an error, and its first value
        that is not finite."""
        # protobuf returns the same object for a message as long as there is a reference to it.
        self._unfinite = {id(each.tensor): each for each in unfinite}
        self._given: list[set[str]] = []
        self._outer: list[int] = []
        self._next: dict[_Place, list[_Place]] = {}
        self._functions = {
            (body.domain, body.name): (self._open(body.input, body.node, -1), body)
            for body in model.functions
        }
        waiting: list[tuple[int, Sequence[NodeProto]]]
        waiting = [(self._graph(model.graph, -1), model.graph.node)]
        waiting += ((scope, body.node) for scope, body in self._functions.values())
        while waiting:
            scope, nodes = waiting.pop()
            for node in nodes:
                self.nodes.append((scope, node))
                self._read(node, scope)
                waiting += self._enter(node, scope)

    def place(self, scope: int, name: str) -> _Place:
        """Return the tensor that a name refers to in a graph."""
        at = scope
        while at >= 0 and name not in self._given[at]:
            at = self._outer[at]
        return at, name

    def reached(self, starts: Iterable[_Place]) -> dict[_Place, _Place]:
        """Return the tensors that have values of `starts`, these included -> the start of each."""
        seen = {start: start for start in starts}
        waiting = list(seen)
        while waiting:
            place = waiting.pop()
            for after in self._next.get(place, ()):
                if after not in seen:
                    seen[after] = seen[place]
                    waiting.append(after)
        return seen

    def products(self, constants: Container[_Place]) -> list[_Place]:
        """Return the products of rows with constant weights."""
        return [
            (scope, node.output[0])
            for scope, node in self.nodes
            if node.op_type in _PRODUCTS
            and node.output
            and any(self.place(scope, name) in constants for name in node.input)
        ]

    def _open(self, inputs: Sequence[str], nodes: Sequence[NodeProto], outer: int) -> int:
        self._given.append({*inputs, *(name for node in nodes for name in node.output)})
        self._outer.append(outer)
        return len(self._given) - 1

    def _graph(self, graph: GraphProto, outer: int) -> int:
        scope = self._open([value.name for value in graph.input], graph.node, outer)
        sparse = [each.values for each in graph.sparse_initializer]
        for tensor in (*graph.initializer, *sparse):
            self._given[scope].add(tensor.name)
            self._constant((scope, tensor.name), tensor)
        return scope

    def _constant(self, place: _Place, tensor: TensorProto) -> None:
        self.constants.append(place)
        unfinite = self._unfinite.get(id(tensor))
        if unfinite is not None:
            self.wrong[place] = unfinite.part, unfinite.found

    def _read(self, node: NodeProto, scope: int) -> None:
        """Record which tensors the results of a node have their values from."""
        outputs = [(scope, name) for name in node.output if name]
        for attribute in node.attribute:
            self._check_attribute(node, attribute)
            if node.op_type in ("Constant", "ConstantOfShape") and outputs:
                if attribute.type == AttributeProto.TENSOR:
                    self._constant(outputs[0], attribute.t)
                elif attribute.name in ("value_float", "value_floats"):
                    self.constants.append(outputs[0])
                    found = _first_wrong(attribute)
                    if found:
                        self.wrong[outputs[0]] = node_part(node), found
        function = self._functions.get((node.domain, node.op_type))
        if function is not None:
            inner, body = function
            for name, formal in zip(node.input, body.input, strict=False):
                self._link(self.place(scope, name), (inner, formal))
            for name, result in zip(body.output, node.output, strict=False):
                self._link(self.place(inner, name), (scope, result))
        elif node.op_type in _SAME_VALUES:
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            for name in sources:
                for output in outputs:
                    self._link(self.place(scope, name), output)

    def _enter(self, node: NodeProto, scope: int) -> Iterator[tuple[int, Sequence[NodeProto]]]:
        """Open a node's subgraphs; their inputs and outputs are those of the node, in order."""
        for graph in node_graphs(node):
            inner = self._graph(graph, scope)
            # A Loop's body returns the condition first, which is no result of the node.
            skipped = 1 if node.op_type == "Loop" else 0
            for name, value in zip(node.input, graph.input, strict=False):
                self._link(self.place(scope, name), (inner, value.name))
            for value, result in zip(graph.output[skipped:], node.output, strict=False):
                self._link(self.place(inner, value.name), (scope, result))
            yield inner, graph.node

    def _link(self, source: _Place, after: _Place) -> None:
        if source[1] and after[1]:
            self._next.setdefault(source, []).append(after)

    def _check_attribute(self, node: NodeProto, attribute: AttributeProto) -> None:
        if (node.op_type, attribute.name) not in _WEIGHT_ATTRIBUTES:
            return
        tensor = self._unfinite.get(id(attribute.t))
        found = _first_wrong(attribute) if tensor is None else tensor.found
        if found:
            raise GuardError(
                node_part(node), expected=f"finite {attribute.name}", got=found, fix=_FIX
            )


def _first_wrong(attribute: AttributeProto) -> str:
    """Return the first number of an attribute that is not finite, empty if there is none."""
    numbers = {AttributeProto.FLOAT: (attribute.f,), AttributeProto.FLOATS: attribute.floats}
    wrong = (value for value in numbers.get(attribute.type, ()) if not math.isfinite(value))
    return next(map(str, wrong), "")
