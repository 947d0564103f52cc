"""The constants of an ONNX graph: initializers, Constant nodes, and values computed from them.

The declaration of a tensor is compared with the values that it has; nothing outside the file is
read.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import UnsupportedModelError, UnsupportedSourceError
from forwardpass.models.file.node import DOMAINS, attributes, part_of, refused

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_TYPES = frozenset({*_FLOATS, "int32", "int64", "bool"})

_COMPUTED = 2**26
"""Maximum elements that are computed: a small file may ask for any number of them."""


class Constants:
    """Arrays by the names of their tensors, of the types that the file declares."""

    def __init__(
        self,
        initializers: "Iterable[TensorProto]",
        nodes: "Iterable[NodeProto]",
        *,
        round_float64: bool,
    ) -> None:
        self._tensors = {tensor.name: tensor for tensor in initializers}
        self._ahead = {
            node.output[0]: node
            for node in nodes
            if node.op_type == "Constant" and node.domain in DOMAINS and node.output
        }
        self._scalars: dict[str, float | None] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._round_float64 = round_float64
        self._computed = 0

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or name in self._tensors

    def fold(self, node: "NodeProto") -> bool:
        """Compute a node if its value is constant; return whether it is.

        Numbers are computed in float64 and rounded to their type in the graph.
        """
        if node.domain not in DOMAINS:
            return False
        if node.op_type == "Constant":
            self._arrays[node.output[0]] = _value(node)
            return True
        operands = [name for name in node.input if name]
        if node.op_type not in _OPERATORS or not all(name in self for name in operands):
            return False
        arrays = [self.array(name) for name in operands]
        try:
            with np.errstate(all="ignore"):
                result = _OPERATORS[node.op_type](node, arrays, self._claim)
        except (ValueError, IndexError) as error:  # shapes that do not fit
            raise refused(node, f"constants that do not fit ({error})") from error
        self._arrays[node.output[0]] = result
        return True

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant of the file; raises unless it is stored in the file itself."""
        if name not in self._arrays:
            self._arrays[name] = _array(f"initializer {name!r}", self._tensors[name])
        return self._arrays[name]

    def real(self, name: str) -> NDArray[np.float64]:
        """Return real numbers that float32 can represent, or any if rounding is allowed.

        Raises UnsupportedModelError for others than floats, UnsupportedSourceError for a float64
        that float32 cannot represent.
        """
        array = self.array(name)
        part = f"constant {name!r}"
        if array.dtype.name not in _FLOATS:
            raise UnsupportedModelError(part, f"{array.dtype} where a Network has real numbers")
        values = array.astype(np.float64)
        if array.dtype == np.float64 and not self._round_float64:
            with np.errstate(over="ignore", under="ignore"):
                lost = values.astype(np.float32) != values
            if (lost & ~np.isnan(values)).any():
                raise UnsupportedSourceError(
                    part,
                    f"float64 values such as {values[lost][0]!r}, which float32 would round",
                    "pass round_float64=True to round them, or write the file in float32",
                )
        return values

    def scalar(self, name: str) -> float | None:
        """Return the number of a constant that has one, also of a node that is still to come.

        None for any other tensor.
        """
        if name not in self._scalars:
            self._scalars[name] = self._number(name)
        return self._scalars[name]

    def _number(self, name: str) -> float | None:
        node = self._ahead.get(name)
        if node is not None:
            held = next((each.t for each in node.attribute if each.name == "value"), None)
        else:
            held = self._tensors.get(name)
            if held is None:
                return None
        # Decoded only if it is short.
        if held is not None and math.prod(held.dims) != 1:
            return None
        try:
            array = self.array(name) if node is None else _value(node)
        except (UnsupportedModelError, UnsupportedSourceError):
            return None  # The reader of the node raises it again.
        return float(array.item()) if array.size == 1 and array.dtype.name in _FLOATS else None

    def whole(self, name: str) -> list[int] | None:
        """Return whole numbers, as of a shape; None for anything but a constant list of them."""
        if name not in self or self.array(name).dtype.kind not in "bi":
            return None
        return [int(value) for value in self.array(name).reshape(-1)]

    def _claim(self, node: "NodeProto", elements: int) -> None:
        self._computed += elements
        if self._computed > _COMPUTED:
            raise refused(node, "constants that are computed to be far larger than the file")


def _array(part: str, tensor: "TensorProto") -> NDArray[Any]:
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL:
        raise UnsupportedSourceError(
            part,
            "its values are in another file, and no other file is read",
            "write all into one: torch.onnx.export(..., external_data=False), or onnx.load and "
            "onnx.save",
        )
    kind = TensorProto.DataType.Name(tensor.data_type).lower()
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    if kind not in _TYPES:
        raise UnsupportedModelError(part, f"of type {kind}, which no part of a Network has")
    # The shape may be wrong: no memory is allocated by it.
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(
            part, f"expected the values of shape {tuple(tensor.dims)} ({error})"
        ) from error
    if array.shape != tuple(tensor.dims):
        raise UnsupportedModelError(part, f"no tensor has the shape {tuple(tensor.dims)}")
    return array


def _value(node: "NodeProto") -> NDArray[Any]:
    """Return the value of a Constant node."""
    if len(node.attribute) == 1 and node.attribute[0].name == "value":
        return _array(part_of(node), node.attribute[0].t)
    forms = {"value_float", "value_floats", "value_int", "value_ints"}
    given = attributes(node, dict.fromkeys(forms))
    values = [each for each in given.values() if each is not None]
    if len(values) != 1:
        raise refused(node, "expected one value")
    whole = any(given[form] is not None for form in ("value_int", "value_ints"))
    return np.array(values[0], np.int64 if whole else np.float32)


_Claim: TypeAlias = "Callable[[NodeProto, int], None]"
_Operator: TypeAlias = "Callable[[NodeProto, list[NDArray[Any]], _Claim], NDArray[Any]]"


def _identity(node: "NodeProto", arrays: list[NDArray[Any]], _: _Claim) -> NDArray[Any]:
    attributes(node, {})
    return arrays[0]


def _cast(node: "NodeProto", arrays: list[NDArray[Any]], claim: _Claim) -> NDArray[Any]:
    from onnx import helper

    to = attributes(node, {"to": 0, "saturate": 1})["to"]
    claim(node, arrays[0].size)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(to)
    except KeyError as error:
        raise refused(node, f"a cast to type {to}") from error
    return arrays[0].astype(dtype)


def _transpose(node: "NodeProto", arrays: list[NDArray[Any]], _: _Claim) -> NDArray[Any]:
    perm = attributes(node, {"perm": None})["perm"]
    return np.transpose(arrays[0], perm)


def _reshape(node: "NodeProto", arrays: list[NDArray[Any]], _: _Claim) -> NDArray[Any]:
    values, shape = arrays
    copies = not attributes(node, {"allowzero": 0})["allowzero"]
    return values.reshape(
        [
            values.shape[axis] if copies and not length else int(length)
            for axis, length in enumerate(shape)
        ]
    )


def _unsqueeze(node: "NodeProto", arrays: list[NDArray[Any]], _: _Claim) -> NDArray[Any]:
    return np.expand_dims(arrays[0], _axes(node, arrays) or ())


def _squeeze(node: "NodeProto", arrays: list[NDArray[Any]], _: _Claim) -> NDArray[Any]:
    return np.squeeze(arrays[0], _axes(node, arrays))


def _axes(node: "NodeProto", arrays: list[NDArray[Any]]) -> tuple[int, ...] | None:
    """Return the axes: of an attribute until opset 12, of a second input from 13 on."""
    axes = attributes(node, {"axes": None})["axes"]
    axes = arrays[1].reshape(-1) if len(arrays) > 1 else axes
    return None if axes is None else tuple(int(axis) for axis in axes)


def _concat(node: "NodeProto", arrays: list[NDArray[Any]], claim: _Claim) -> NDArray[Any]:
    axis = attributes(node, {"axis": 0})["axis"]
    claim(node, sum(array.size for array in arrays))
    return np.concatenate(arrays, axis=axis)


def _elementwise(function: Callable[..., Any]) -> _Operator:
    def compute(node: "NodeProto", arrays: list[NDArray[Any]], claim: _Claim) -> NDArray[Any]:
        attributes(node, {})
        a, b = arrays
        claim(node, int(np.prod(np.broadcast_shapes(a.shape, b.shape), dtype=object)))
        return _rounded(node, function(_wide(a), _wide(b)), a)

    return compute


def _matmul(node: "NodeProto", arrays: list[NDArray[Any]], claim: _Claim) -> NDArray[Any]:
    attributes(node, {})
    a, b = arrays
    if a.ndim != 2 or b.ndim != 2:
        raise refused(node, "expected matrices")
    claim(node, len(a) * b.shape[1])
    return _rounded(node, _wide(a) @ _wide(b), a)


def _gemm(node: "NodeProto", arrays: list[NDArray[Any]], claim: _Claim) -> NDArray[Any]:
    given = attributes(node, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0})
    a = arrays[0].T if given["transA"] else arrays[0]
    b = arrays[1].T if given["transB"] else arrays[1]
    claim(node, len(a) * b.shape[1])
    result = given["alpha"] * (_wide(a) @ _wide(b))
    if len(arrays) > 2:
        result = result + given["beta"] * _wide(arrays[2])
    return _rounded(node, result, a)


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype.name in _FLOATS else array


def _rounded(node: "NodeProto", result: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    if like.dtype.name not in _FLOATS:
        raise refused(node, f"computes with {like.dtype}")
    return result.astype(like.dtype)


_OPERATORS: Mapping[str, _Operator] = {
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _elementwise(np.divide),
    "Gemm": _gemm,
    "Identity": _identity,
    "MatMul": _matmul,
    "Mul": _elementwise(np.multiply),
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operators that compute constants -> their functions."""
