"""The rules of the operators of plain feed-forward networks: from input shapes to the output's."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from forwardpass.server.guard.errors import NodeError, NotPlainError
from forwardpass.server.guard.shapes import (
    Shape,
    broadcast,
    elements,
    format_lengths,
    merge,
    reshape,
)
from forwardpass.server.onnx_messages import TensorProto

_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_SHORT = 32
"""Maximum elements of a constant whose values are kept: a shape, a list of axes."""


class Tensor(NamedTuple):
    """What is known of a tensor before anything is computed."""

    data_type: int
    """The data type, as in TensorProto.DataType."""
    shape: Shape
    constant: bool = False
    values: tuple[int, ...] | None = None
    """The values of a short constant of integers, flat; None for other tensors."""


Attributes = Mapping[str, Any]
Rule = Callable[[Sequence[Tensor], Attributes], Tensor]
"""A function that returns what is known of the only output; raises NodeError or NotPlainError."""


def constant(tensor: TensorProto) -> Tensor:
    """Return what is known of a constant that the guard has proven."""
    values = None
    short = len(tensor.dims) < 2 and math.prod(tensor.dims) <= _SHORT
    if tensor.data_type in _INTEGERS and short:
        data: Any = tensor.int32_data or tensor.int64_data
        if tensor.HasField("raw_data"):
            width = 4 if tensor.data_type == TensorProto.INT32 else 8
            raw = tensor.raw_data
            data = [
                int.from_bytes(raw[at : at + width], "little", signed=True)
                for at in range(0, len(raw), width)
            ]
        values = tuple(data)
    return Tensor(tensor.data_type, tuple(tensor.dims), True, values)


def _all_constant(inputs: Sequence[Tensor]) -> bool:
    return all(tensor.constant for tensor in inputs)


def same(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Any function of each element, or of each row: (...) -> (...)."""
    return inputs[0]._replace(constant=_all_constant(inputs), values=None)


def test(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Any test of each element: (...) -> (...), booleans."""
    return same(inputs, attributes)._replace(data_type=TensorProto.BOOL)


def identity(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Return the tensor itself, its values too: (...) -> (...)."""
    return inputs[0]


def cast(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Convert each element to the data type `to`: (...) -> (...).

    Texts made of numbers take more memory than anything that is counted.
    """
    if attributes.get("to") == TensorProto.STRING != inputs[0].data_type:
        raise NotPlainError("it makes texts of numbers")
    return Tensor(attributes.get("to", 0), inputs[0].shape, inputs[0].constant)


def elementwise(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Combine elements side by side: NumPy's broadcasting."""
    shape = broadcast(*(tensor.shape for tensor in inputs))
    return Tensor(inputs[0].data_type, shape, _all_constant(inputs))


def comparison(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Compare elements side by side: NumPy's broadcasting, booleans."""
    return elementwise(inputs, attributes)._replace(data_type=TensorProto.BOOL)


def may_crash(divisor: Tensor) -> bool:
    """Whether a division by this tensor could crash at a caller's numbers.

    onnxruntime 1.32 dies of SIGFPE at one division of integers, which a constant divisor other
    than -1 rules out.
    """
    return divisor.data_type in _INTEGERS and (divisor.values is None or -1 in divisor.values)


def divide(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Divide floats, or integers by constants: NumPy's broadcasting."""
    if may_crash(inputs[1]):
        raise NotPlainError("it divides integers by what may be -1")
    return elementwise(inputs, attributes)


def clip(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Bound each element by a scalar below, above or both: (...) -> (...)."""
    if any(tensor.shape not in ((), (1,)) for tensor in inputs[1:]):
        raise NotPlainError("its bounds are not scalars")
    return same(inputs, attributes)


def selection(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Where's condition, x and y: NumPy's broadcasting, x's data type."""
    return elementwise(inputs, attributes)._replace(data_type=inputs[1].data_type)


def gemm(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Multiply rows with constant weights and add a bias: (m, k), (k, n), (n,) -> (m, n)."""
    a, b, *bias = inputs
    if attributes.get("transA", 0):
        raise NotPlainError("it turns its rows into columns")
    _check_product(a, b)
    if len(a.shape) != 2:
        raise NodeError(expected="rows of shape [rows, width]", got=format_lengths(a.shape))
    weight = tuple(reversed(b.shape)) if attributes.get("transB", 0) else b.shape
    result = _product(a, weight)
    for c in bias:
        if broadcast(c.shape, result.shape) != result.shape:
            raise NodeError(
                expected=f"a bias for {format_lengths(result.shape)}", got=format_lengths(c.shape)
            )
    return result


def matmul(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Multiply rows with constant weights: (..., m, k), (k, n) -> (..., m, n)."""
    a, b = inputs
    _check_product(a, b)
    return _product(a, b.shape)


def _check_product(a: Tensor, b: Tensor) -> None:
    if a.constant or not b.constant:
        raise NotPlainError("it is no product of rows with constant weights")
    if len(a.shape) < 2 or len(b.shape) != 2:
        raise NotPlainError(
            f"it multiplies {format_lengths(a.shape)} with {format_lengths(b.shape)}"
        )


def _product(a: Tensor, weight: Shape) -> Tensor:
    width = a.shape[-1]
    if isinstance(width, int) and width != weight[0]:
        raise NodeError(
            expected=f"weights for an input of width {width}",
            got=f"weights of shape {format_lengths(weight)}",
        )
    return Tensor(a.data_type, (*a.shape[:-1], weight[1]))


def along_last(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Softmax and its like, along an axis: (...) -> (...)."""
    _axis(inputs[0].shape, attributes.get("axis", -1))
    return same(inputs, attributes)


def layer_norm(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Normalize the last axis, with a constant scale and bias: (..., n), (n,), (n,) -> (..., n)."""
    x, *given = inputs
    last = len(x.shape) - 1
    if _axis(x.shape, attributes.get("axis", -1)) != last or attributes.get("stash_type", 1) != 1:
        raise NotPlainError("it normalizes other than the last axis, or not in float32")
    if not _all_constant(given):
        raise NotPlainError("its scale is not constant")
    for each in given:
        if each.shape != x.shape[last:]:
            raise NodeError(
                expected=f"a scale and a bias for each of {format_lengths(x.shape[last:])}",
                got=format_lengths(each.shape),
            )
    return same(inputs, attributes)


def _axis(shape: Shape, axis: int, extra: int = 0) -> int:
    """Return an axis counted from the front; `extra` axes may lie beyond the last."""
    rank = len(shape) + extra
    if not -rank <= axis < rank:
        raise NodeError(expected=f"an axis of {format_lengths(shape)}", got=str(axis))
    return axis % rank


def flatten(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Make two axes of those before `axis` and those from it on."""
    (x,) = inputs
    axis = attributes.get("axis", 1)
    # The axis may be one past the last, but not one before the first.
    front = axis if axis == len(x.shape) else _axis(x.shape, axis)
    return x._replace(shape=(merge(x.shape[:front]), merge(x.shape[front:])), values=None)


def concat(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Join columns: (m, j), (m, k) -> (m, j + k)."""
    first = inputs[0]
    axis = _axis(first.shape, attributes.get("axis", 0))
    for tensor in inputs[1:]:
        if len(tensor.shape) != len(first.shape):
            raise NodeError(
                expected=f"tensors of {len(first.shape)} axes", got=format_lengths(tensor.shape)
            )
        for index, (mine, other) in enumerate(zip(first.shape, tensor.shape, strict=True)):
            if index == axis or mine == other:
                continue
            if isinstance(mine, int) and isinstance(other, int):
                raise NodeError(
                    expected=f"tensors like {format_lengths(first.shape)}",
                    got=format_lengths(tensor.shape),
                )
            raise NotPlainError(f"the lengths {mine} and {other} may differ")
    lengths = [tensor.shape[axis] for tensor in inputs]
    if not all(isinstance(length, int) for length in lengths):
        raise NotPlainError("it joins rows, not columns")
    total = sum(length for length in lengths if isinstance(length, int))
    shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
    return Tensor(first.data_type, shape, _all_constant(inputs))


def cut(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Take a constant part of axes of known lengths: (m, n) -> (m, k)."""
    x, *given = inputs
    starts, ends, axes, *rest = (_known(each) for each in given)
    steps = rest[0] if rest else (1,) * len(axes)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise NodeError(
            expected=f"a start, an end and a step for each of {len(axes)} axes",
            got=f"{len(starts)}, {len(ends)} and {len(steps)}",
        )
    places = [_axis(x.shape, axis) for axis in axes]
    if len({*places}) != len(places):
        raise NodeError(expected="axes that differ", got=str(list(axes)))
    shape = list(x.shape)
    for place, start, end, step in zip(places, starts, ends, steps, strict=True):
        length = x.shape[place]
        if not isinstance(length, int):
            raise NotPlainError("it takes a part of an axis of any length")
        if step != 1:
            raise NotPlainError("it leaves out elements between others, or turns them round")
        shape[place] = len(range(length)[start:end])
    return x._replace(shape=tuple(shape), values=None)


def reshaped(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Arrange the same elements in a constant shape."""
    x, wanted = inputs
    values = _known(wanted)
    if attributes.get("allowzero", 0) and 0 in values:
        raise NotPlainError("it asks for a size of 0")
    return x._replace(shape=reshape(x.shape, values), values=None)


def transpose(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Put the axes in the order of `perm`, else in the opposite one."""
    (x,) = inputs
    order = list(attributes.get("perm", range(len(x.shape) - 1, -1, -1)))
    if sorted(order) != list(range(len(x.shape))):
        raise NodeError(
            expected=f"an order of the axes of {format_lengths(x.shape)}", got=str(order[:32])
        )
    return x._replace(shape=tuple(x.shape[axis] for axis in order), values=None)


def squeeze(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Leave out axes of length 1, constant ones."""
    x, axes = inputs
    dropped = {_axis(x.shape, axis) for axis in _known(axes)}
    for axis in dropped:
        if x.shape[axis] != 1:
            if isinstance(x.shape[axis], int):
                raise NodeError(expected=f"axis {axis} of length 1", got=format_lengths(x.shape))
            raise NotPlainError("it drops an axis that may be longer than 1")
    return x._replace(
        shape=tuple(size for axis, size in enumerate(x.shape) if axis not in dropped), values=None
    )


def unsqueeze(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """Add axes of length 1, constant ones."""
    x, axes = inputs
    new = _known(axes)
    places = {_axis(x.shape, axis, len(new)) for axis in new}
    if len(places) != len(new):
        raise NodeError(expected="axes that differ", got=str(list(new)))
    rest = iter(x.shape)
    shape = tuple(1 if axis in places else next(rest) for axis in range(len(x.shape) + len(places)))
    return x._replace(shape=shape, values=None)


def _known(tensor: Tensor) -> tuple[int, ...]:
    if tensor.values is None:
        raise NotPlainError("its shape is no short constant")
    return tensor.values


def position(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """ArgMax and ArgMin: where along an axis that is not empty."""
    (x,) = inputs
    axis = _axis(x.shape, attributes.get("axis", 0))
    # There is no position in an axis of length 0.
    if isinstance(x.shape[axis], str) or x.shape[axis] == 0:
        raise NotPlainError("it looks along an axis that may be empty")
    kept = (1,) if attributes.get("keepdims", 1) else ()
    shape = (*x.shape[:axis], *kept, *x.shape[axis + 1 :])
    return Tensor(TensorProto.INT64, shape, x.constant)


def quantize(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Write floats as integers with a constant scale: (...) -> (...)."""
    _check_scale(inputs, attributes)
    data_type = inputs[2].data_type if len(inputs) > 2 else TensorProto.UINT8
    return Tensor(data_type, inputs[0].shape, inputs[0].constant)


def dequantize(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Read integers as floats with a constant scale: (...) -> (...)."""
    _check_scale(inputs, attributes)
    return Tensor(inputs[1].data_type, inputs[0].shape, inputs[0].constant)


def _check_scale(inputs: Sequence[Tensor], attributes: Attributes) -> None:
    x, scale, *zero = inputs
    if not scale.constant or not _all_constant(zero):
        raise NotPlainError("its scale is not constant")
    if scale.shape not in ((), (1,)):
        axis = _axis(x.shape, attributes.get("axis", 1))
        if scale.shape != (x.shape[axis],):
            raise NodeError(
                expected=f"a scale for axis {axis} of {format_lengths(x.shape)}",
                got=format_lengths(scale.shape),
            )
    # onnxruntime takes a scalar and a single element for the same, and writes them mixed.
    one = scale.shape in ((), (1,)) and all(tensor.shape in ((), (1,)) for tensor in zero)
    if not one and any(tensor.shape != scale.shape for tensor in zero):
        raise NodeError(
            expected=f"a zero point of shape {format_lengths(scale.shape)}, as the scale",
            got=format_lengths(zero[0].shape),
        )


def scaler(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """ai.onnx.ml's (x - offset) * scale with one number, or one a column: (..., n) -> (..., n)."""
    (x,) = inputs
    width = x.shape[-1] if x.shape else 1
    counts = {len(attributes.get(name, ())) for name in ("offset", "scale")}
    if counts not in ({1}, {width}):
        raise NodeError(
            expected=f"1 offset and 1 scale, or {width} of both", got=f"{sorted(counts)} of them"
        )
    return Tensor(TensorProto.FLOAT, x.shape, x.constant)


def pick_columns(inputs: Sequence[Tensor], _: Attributes) -> Tensor:
    """ai.onnx.ml's choice of columns by their numbers: (..., n), (k,) -> (..., k)."""
    x, columns = inputs
    if not x.shape:
        raise NotPlainError("it picks from a scalar")
    shape = (*(x.shape[:-1] or (1,)), merge(columns.shape))
    if elements(shape).free.total() > 1:
        raise NotPlainError("both what it picks from and what it picks have free lengths")
    return Tensor(x.data_type, shape, _all_constant(inputs))


_KEYS: Mapping[int, str] = {
    TensorProto.INT64: "keys_int64s",
    TensorProto.STRING: "keys_strings",
}


def encode(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """ai.onnx.ml's integer for each text or integer: (...) -> (...)."""
    (x,) = inputs
    keys = attributes.get(_KEYS.get(x.data_type, ""), ())
    others = [name for name in _KEYS.values() if name in attributes]
    if others != [_KEYS.get(x.data_type)]:
        raise NotPlainError("its keys are of another type than what it reads")
    if len(keys) != len(attributes.get("values_int64s", ())):
        raise NodeError(
            expected=f"a value for each of its {len(keys)} keys",
            got=f"{len(attributes.get('values_int64s', ()))} values",
        )
    return Tensor(TensorProto.INT64, x.shape, x.constant)


def literal(_: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Constant's own value."""
    match list(attributes.items()):
        case [("value", tensor)]:
            return constant(tensor)
        case [("value_float" | "value_int" as name, number)]:
            return _list(name, (number,))._replace(shape=())
        case [("value_floats" | "value_ints" as name, numbers)]:
            return _list(name, numbers)
    raise NotPlainError("it is a constant of another kind than a tensor")


def _list(name: str, numbers: Sequence[Any]) -> Tensor:
    if "float" in name:
        return Tensor(TensorProto.FLOAT, (len(numbers),), True)
    values = tuple(numbers) if len(numbers) <= _SHORT else None
    return Tensor(TensorProto.INT64, (len(numbers),), True, values)
