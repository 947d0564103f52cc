"""What a caller gives -> the arrays of the model's inputs, by name and with a row axis."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.client._casting import as_array, cast
from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.spec import (
    TensorError,
    TensorSpec,
    check_complete,
    check_name,
    format_shape,
    quote,
)

Inputs = ArrayLike | Mapping[str, ArrayLike]
"""An array for a model with one input, or the arrays of its inputs by name."""


def read_inputs(specs: Sequence[TensorSpec], x: Inputs) -> tuple[list[NDArray[Any]], bool]:
    """Return an array for each spec, in order and cast, and whether x was a single row.

    A single row, one axis short of [-1, ...] or [1, ...], gets a row axis of length 1.
    Shapes are not checked otherwise.

    Raises TensorError if inputs are missing or unknown, one cannot be cast without loss, or
    some are single rows and some are not.
    """
    given = _by_name(specs, x)
    arrays = [cast(spec, as_array(spec.name, given[spec.name], spec.datatype)) for spec in specs]
    without_row_axis = [
        spec
        for spec, array in zip(specs, arrays, strict=True)
        if array.ndim == len(spec.shape) - 1 and _has_row_axis(spec)
    ]
    if not without_row_axis:
        return arrays, False
    if len(without_row_axis) != sum(map(_has_row_axis, specs)):
        _refuse_mixture(specs, arrays)
    return [
        array[np.newaxis] if _has_row_axis(spec) else array
        for spec, array in zip(specs, arrays, strict=True)
    ], True


def undeclared(x: Inputs) -> tuple[TensorSpec, ...]:
    """Return the specs that x itself has, for a model whose inputs the server does not know.

    Raises TensorError if x names no inputs or an array has a dtype without a datatype.
    """
    if not isinstance(x, Mapping):
        raise TensorError(
            "x",
            expected="a dict of arrays, as the server does not tell the model's inputs",
            got=type(x).__name__,
            fix="send {name: array}",
        )
    return tuple(_spec_of(name, as_array(name, value)) for name, value in x.items())


def _spec_of(name: str, array: NDArray[Any]) -> TensorSpec:
    try:
        datatype = datatype_of(array.dtype).name
    except KeyError:
        raise TensorError(
            f"input {name!r}",
            expected=f"a dtype of {', '.join(DATATYPES)}",
            got=str(array.dtype),
            fix="convert the array before sending",
        ) from None
    return TensorSpec(name, datatype, array.shape)


def _by_name(specs: Sequence[TensorSpec], x: Inputs) -> Mapping[str, ArrayLike]:
    if not isinstance(x, Mapping):
        if len(specs) == 1:
            return {specs[0].name: x}
        raise TensorError(
            "x",
            expected=f"a dict of arrays for {len(specs)} inputs: {', '.join(map(str, specs))}",
            got=f"one {type(x).__name__}",
            fix="send {name: array} with every input",
        )
    names = [spec.name for spec in specs]
    for name in x:
        check_name(f"input {quote(name)}", name, names, (), once="")
    check_complete(names, x)
    return x


def _has_row_axis(spec: TensorSpec) -> bool:
    # [1] alone is a parameter rather than a row: a one-row model has [1, n].
    return spec.shape[:1] == (-1,) or (spec.shape[:1] == (1,) and len(spec.shape) > 1)


def _refuse_mixture(specs: Sequence[TensorSpec], arrays: Sequence[NDArray[Any]]) -> NoReturn:
    shapes = ", ".join(
        f"{spec.name!r} {format_shape(array.shape)} for {format_shape(spec.shape)}"
        for spec, array in zip(specs, arrays, strict=True)
    )
    raise TensorError(
        "x",
        expected="all inputs as single rows, or none",
        got=shapes,
        fix="send every input with its row axis",
    )
