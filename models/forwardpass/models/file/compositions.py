"""Activation functions that are several nodes of a graph, written and recognized.

Opset 17 has no Gelu, Mish or Swish. They are written in forms in which no step overflows where the
function does not; of some onnxruntime makes one node. Other exporters write them, and functions
that have an operator, in many orders. So an expression is brought into one notation, and is
recognized only if it is the function in that notation, up to the rounding of its constants.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from forwardpass.models.activations import FunctionName
from forwardpass.models.errors import UnsupportedModelError
from forwardpass.models.file.node import DOMAINS, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

_TANH = math.sqrt(2 / math.pi)
_CUBIC = 0.044715

COMPOSITIONS: Mapping[FunctionName, Sequence[tuple[str, str, tuple[str | float, ...]]]] = {
    # onnxruntime: Gelu.
    "gelu": (
        ("scaled", "Div", ("z", math.sqrt(2))),
        ("erf", "Erf", ("scaled",)),
        ("shifted", "Add", ("erf", 1.0)),
        ("half", "Mul", ("z", 0.5)),
        ("a", "Mul", ("half", "shifted")),
    ),
    # (1 + tanh t) / 2 is the sigmoid of 2 t: half as many steps.
    "gelu_tanh": (
        ("square", "Mul", ("z", "z")),
        ("curved", "Mul", ("square", 2 * _TANH * _CUBIC)),
        ("slope", "Add", ("curved", 2 * _TANH)),
        ("twice", "Mul", ("slope", "z")),
        ("share", "Sigmoid", ("twice",)),
        ("a", "Mul", ("z", "share")),
    ),
    # onnxruntime: QuickGelu.
    "silu": (("share", "Sigmoid", ("z",)), ("a", "Mul", ("z", "share"))),
    "mish": (
        ("softplus", "Softplus", ("z",)),
        ("share", "Tanh", ("softplus",)),
        ("a", "Mul", ("z", "share")),
    ),
}
"""Names of functions -> their steps: name, operator and inputs, which are `z`, names of earlier
steps or numbers. The last step is `a`."""

_Form: TypeAlias = float | tuple[Any, ...]
"""An expression in the notation that all orders of sums and products share."""

_Z: _Form = ("z",)
_CLOSE = 1e-6
"""Maximum relative error of a constant: some roundings to float32."""
_MOST, _MOST_FUNCTIONS = 32, 4
"""Maximum tensors and functions in an expression: few nodes may stand for a very large one."""
_NEAR = 16
"""Maximum tensors, in the order of their distance from the last step, that may be z."""
_FLOATS = (1, 10, 11, 16)
"""FLOAT, FLOAT16, DOUBLE and BFLOAT16 of TensorProto.DataType: a Network has float32 for all."""


class _NoFormError(Exception):
    """The nodes compute something else than a function of z alone, or too much."""


def _number(value: Any) -> float:
    """Return an attribute's number; raises _NoFormError for one that is left out, or a list."""
    if isinstance(value, float):
        return value
    raise _NoFormError


def _times(*factors: _Form) -> _Form:
    return _gathered("*", math.prod, 1.0, factors)


def _plus(*terms: _Form) -> _Form:
    return _gathered("+", sum, 0.0, terms)


def _gathered(
    sign: str, together: Callable[[Iterable[float]], float], none: float, parts: Sequence[_Form]
) -> _Form:
    """Return a sum or a product: nested ones joined, numbers first, the rest in one order."""
    numbers: list[float] = []
    rest: list[_Form] = []
    for part in parts:
        if isinstance(part, float):
            numbers.append(part)
        elif part[0] == sign:
            _, number, others = part
            numbers.append(number)
            rest += others
        else:
            rest.append(part)
    number = float(together(numbers))
    if not rest:
        return number
    if number == none and len(rest) == 1:
        return rest[0]
    return (sign, number, tuple(sorted(rest, key=_shape)))


def _shape(form: object) -> str:
    """Return an expression without its numbers, as text by which parts are sorted."""
    if isinstance(form, tuple):
        return f"({','.join(map(_shape, form))})"
    return "#" if isinstance(form, float) else str(form)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_CLOSE)
    return one == other


def _function(name: str, argument: _Form) -> _Form:
    match name, argument:
        case "Log", ("+", 1.0, (("Exp", exponent),)):
            return ("Softplus", exponent)
    return (name, argument)


def _without_overflow(form: _Form) -> _Form:
    """Return a softplus in place of max(z, 0) + ln(1 + e^-|z|), which is the same."""
    match form:
        case ("+", 0.0, (("Max", a, 0.0), ("Softplus", ("*", -1.0, (("Abs", b),))))) if a == b:
            return ("Softplus", a)
    return form


def _clipped(low: float, high: float, argument: _Form) -> _Form:
    return ("Clip", low, high, argument)


def _cubics(c: float) -> Iterator[_Form]:
    """Yield c (z + 0.044715 z^3), in each of the ways in which its factors may be gathered."""
    yield _times(c, _plus(_Z, _times(_CUBIC, _Z, _Z, _Z)))
    yield _times(c, _Z, _plus(1.0, _times(_CUBIC, _Z, _Z)))
    yield _times(_Z, _plus(c, _times(c * _CUBIC, _Z, _Z)))
    yield _plus(_times(c, _Z), _times(c * _CUBIC, _Z, _Z, _Z))


def _forms() -> Iterator[tuple[_Form, str, dict[str, Any]]]:
    """Yield the expressions that are activation functions, with the operator for each."""
    half_erf = _plus(1.0, ("Erf", _times(math.sqrt(0.5), _Z)))
    yield _times(0.5, _Z, half_erf), "Gelu", {}
    for cubic in _cubics(_TANH):
        yield _times(0.5, _Z, _plus(1.0, ("Tanh", cubic))), "Gelu", {"approximate": "tanh"}
    for cubic in _cubics(2 * _TANH):
        yield _times(_Z, ("Sigmoid", cubic)), "Gelu", {"approximate": "tanh"}
    yield _times(_Z, ("Sigmoid", _Z)), "Swish", {}
    yield _times(_Z, ("Tanh", ("Softplus", _Z))), "Mish", {}
    yield ("Softplus", _Z), "Softplus", {}
    yield _times(_Z, ("Reciprocal", _plus(1.0, ("Abs", _Z)))), "Softsign", {}
    yield ("Log", ("Softmax", _Z)), "LogSoftmax", {}
    for clipped in (
        _clipped(0.0, 1.0, _plus(0.5, _times(1 / 6, _Z))),
        _times(1 / 6, _clipped(0.0, 6.0, _plus(3.0, _Z))),
    ):
        yield clipped, "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}
        yield _times(_Z, clipped), "HardSwish", {}


class _Known(NamedTuple):
    form: _Form
    operator: str
    attributes: Mapping[str, Any]


def _by_shape() -> dict[str, list[_Known]]:
    known: dict[str, list[_Known]] = {}
    for each in map(_Known._make, _forms()):
        known.setdefault(_shape(each.form), []).append(each)
    return known


_KNOWN = _by_shape()
"""The activation functions, by the shapes of their expressions."""


def _function_of(form: _Form) -> _Known | None:
    """Return the activation function that an expression is, if it is one."""
    match form:
        case ("LeakyRelu", ("z",), float(slope)):
            return _Known(form, "LeakyRelu", {"alpha": slope})
    return next((each for each in _KNOWN.get(_shape(form), ()) if _alike(form, each.form)), None)


_LAST = frozenset({"Mul", "Div", "Log", "Clip", "Where"})
"""Operators with which one of them ends."""
_FUNCTIONS = frozenset(
    {"Abs", "Erf", "Exp", "Log", "Reciprocal", "Sigmoid", "Softmax", "Softplus", "Tanh"}
)
_AT_LEAST_ONE = _FUNCTIONS | {"Clip", "HardSigmoid", "Min", "Where"}
"""Operators of which each has at least one."""


def recognized(
    nodes: "Sequence[NodeProto]",
    scalar: Callable[[str], float | None],
    outputs: Iterable[str],
) -> "list[NodeProto]":
    """Return the nodes, in an order of computation, with each composition as one node.

    That has the operator of a newer opset where 17 has none, and the name and the output of the
    last step. scalar: from a tensor's name to its one number, if it is a constant. What other nodes
    read, or an output shows, is no composition's inner step.
    """
    return _Search(nodes, scalar, outputs).found()


class _Search:
    def __init__(
        self,
        nodes: "Sequence[NodeProto]",
        scalar: Callable[[str], float | None],
        outputs: Iterable[str],
    ) -> None:
        self._nodes = nodes
        self._scalar = scalar
        self._readers = Counter(name for node in nodes for name in node.input if name)
        self._readers.update(list(outputs))
        self._makers = {
            node.output[0]: index
            for index, node in enumerate(nodes)
            if node.domain in DOMAINS and len(node.output) == 1
        }

    def found(self) -> "list[NodeProto]":
        kept: list[NodeProto | None] = list(self._nodes)
        # Backwards, as a composition may be a part of another.
        for index in reversed(range(len(kept))):
            node = kept[index]
            if node is None or node.op_type not in _LAST or node.domain not in DOMAINS:
                continue
            replaced = self._replaced(node)
            if replaced is not None:
                kept[index], inner = replaced
                for each in inner:
                    kept[each] = None
        return [node for node in kept if node is not None]

    def _replaced(self, last: "NodeProto") -> "tuple[NodeProto, set[int]] | None":
        """Return the one node, and the indices of the inner steps, if it is a composition."""
        from onnx import helper

        for z in self._near(last):
            inner = set[int]()
            try:
                form = self._form(last, z, inner)
            except (_NoFormError, UnsupportedModelError):
                continue
            known = _function_of(form)
            if known is not None and self._are_alone(last, inner):
                node = helper.make_node(
                    known.operator, [z], list(last.output), last.name, **known.attributes
                )
                return node, inner
        return None

    def _near(self, last: "NodeProto") -> list[str]:
        """Return tensors that may be z, the nearest first; none if no operator is a function."""
        near: dict[str, None] = {}
        waiting, found = deque([last]), last.op_type in _AT_LEAST_ONE
        while waiting and len(near) < _NEAR:
            for name in waiting.popleft().input:
                if name in near or not name or self._scalar(name) is not None:
                    continue
                near[name] = None
                maker = self._maker(name)
                if maker is not None:
                    found = found or maker.op_type in _AT_LEAST_ONE
                    waiting.append(maker)
        return list(near) if found else []

    def _maker(self, name: str) -> "NodeProto | None":
        index = self._makers.get(name)
        return None if index is None else self._nodes[index]

    def _are_alone(self, last: "NodeProto", inner: set[int]) -> bool:
        """Whether nothing else reads the inner steps."""
        nodes = [last, *(self._nodes[index] for index in inner)]
        reads = Counter(name for node in nodes for name in node.input)
        made = [self._nodes[index].output[0] for index in inner]
        return all(reads[name] == self._readers[name] for name in made)

    def _form(self, last: "NodeProto", z: str, inner: set[int]) -> _Form:
        """Return the expression of a node's output; raises _NoFormError."""
        left, functions = _MOST, _MOST_FUNCTIONS

        def of(name: str) -> _Form:
            nonlocal left, functions
            left -= 1
            if name == z:
                return _Z
            number = self._scalar(name)
            if number is not None:
                return number
            index = self._makers.get(name)
            if index is None:
                raise _NoFormError
            functions -= self._nodes[index].op_type in _FUNCTIONS
            if left < 0 or functions < 0:
                raise _NoFormError
            inner.add(index)
            return self._expressed(self._nodes[index], of)

        return self._expressed(last, of)

    def _expressed(self, node: "NodeProto", of: Callable[[str], _Form]) -> _Form:
        given = attributes(node, _ATTRIBUTES.get(node.op_type, {}))
        operands = [of(name) for name in node.input if name]
        match node.op_type, operands:
            case "Identity", [a]:
                return a
            case "Cast", [a] if given["to"] in _FLOATS:
                return a
            case "Add", [a, b]:
                return _without_overflow(_plus(a, b))
            case "Sub", [a, b]:
                return _plus(a, _times(-1.0, b))
            case "Neg", [a]:
                return _times(-1.0, a)
            case "Mul", [a, b]:
                return _times(a, b)
            case "Div", [a, float(b)] if b:
                return _times(a, 1 / b)
            case "Div", [a, tuple(b)]:
                return _times(a, _function("Reciprocal", b))
            case "Pow", [a, 2.0 | 3.0 as times]:
                return _times(*[a] * int(times))
            case "Softmax", [a] if given["axis"] in (-1, 1):
                return _function("Softmax", a)
            case "HardSigmoid", [a]:
                slope, offset = _number(given["alpha"]), _number(given["beta"])
                return _clipped(0.0, 1.0, _plus(offset, _times(slope, a)))
            case "Clip", [a, float(low), float(high)]:
                return _clipped(low, high, a)
            case "Clip", [a]:
                return _clipped(_number(given["min"]), _number(given["max"]), a)
            case "Max", [tuple(a), float(low)]:
                return ("Max", a, low)
            case "Min", [("Max", a, float(low)), float(high)]:
                return _clipped(low, high, a)
            case "Greater" | "GreaterOrEqual", [a, float(least)]:
                return ("Greater", a, least)
            case "Equal", [a, b] if a == b:
                return ("Equal", a)
            case "Not", [("Equal", a)]:
                return ("IsNaN", a)
            # The function of NaN is NaN, too.
            case "Where", [("IsNaN", a), b, c] if a == b:
                return c
            case "Where", [("Greater", c, 0.0), a, ("*", float(slope), (b,))] if a == b == c:
                return ("LeakyRelu", a, slope)
            # In float32 the same from 17 on.
            case "Where", [("Greater", c, float(least)), a, ("Softplus", b)] if least >= 17:
                if a == b == c:
                    return ("Softplus", a)
            case name, [tuple(a)] if name in _FUNCTIONS and name != "Softmax":
                return _function(name, a)
        raise _NoFormError


_ATTRIBUTES: Mapping[str, Mapping[str, float | int | None]] = {
    "Softmax": {"axis": -1},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Clip": {"min": None, "max": None},
    "Cast": {"to": 0, "saturate": 1},
}
