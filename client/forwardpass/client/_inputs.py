"""What a caller gives -> the arrays of the model's inputs, in order and with a row axis."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.client._casting import as_array
from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.spec import (
    TensorError,
    TensorSpec,
    check_complete,
    check_name,
    format_shape,
    quote,
)

Inputs = ArrayLike | Mapping[str, Any]
"""An array or DataFrame for a model with one input, a dict of its features by name, or a dict of
such values by input name."""

Features = Mapping[str, Sequence[str]]
"""Feature names by input name, of the inputs whose features have names."""


class Given(NamedTuple):
    """What a caller gave, for each input in order; not cast yet."""

    specs: tuple[TensorSpec, ...]
    arrays: tuple[NDArray[Any], ...]
    single_row: bool
    """Rows came without their row axis, and got one of length 1."""


def read_inputs(specs: Sequence[TensorSpec], x: Inputs, features: Features) -> Given:
    """Return an array for each spec, in order.

    A single row, one axis short of [-1, ...] or [1, ...], gets a row axis of length 1.
    Shapes and dtypes are not checked otherwise.

    Raises TensorError if inputs or features are missing or unknown, one is no array, or some
    are single rows and some are not.
    """
    if len(specs) == 1 and type(x) is np.ndarray and x.ndim == len(specs[0].shape):
        # What most calls bring, and nothing to find out about.
        return Given(tuple(specs), (x,), single_row=False)
    given = _by_name(specs, x, features)
    arrays = tuple(_read_input(spec, given[spec.name], features) for spec in specs)
    without_row_axis = [
        spec
        for spec, array in zip(specs, arrays, strict=True)
        if array.ndim == len(spec.shape) - 1 and _has_row_axis(spec)
    ]
    if not without_row_axis:
        return Given(tuple(specs), arrays, single_row=False)
    if len(without_row_axis) != sum(map(_has_row_axis, specs)):
        _refuse_mixture(specs, arrays)
    with_row_axis = tuple(
        array[np.newaxis] if _has_row_axis(spec) else array
        for spec, array in zip(specs, arrays, strict=True)
    )
    return Given(tuple(specs), with_row_axis, single_row=True)


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


def _by_name(specs: Sequence[TensorSpec], x: Inputs, features: Features) -> Mapping[str, Any]:
    """Return what was given for each input: x itself for the only one, unless x names it."""
    names = [spec.name for spec in specs]
    if not isinstance(x, Mapping):
        if len(specs) == 1:
            return {names[0]: x}
        raise TensorError(
            "x",
            expected=f"a dict of arrays for {len(specs)} inputs: {', '.join(map(str, specs))}",
            got=f"one {type(x).__name__}",
            fix="send {name: array} with every input",
        )
    if len(specs) == 1 and names[0] in features and names[0] not in x:
        return {names[0]: x}
    for name in x:
        check_name(f"input {quote(name)}", name, names, (), once="")
    check_complete(names, x)
    return x


def _read_input(spec: TensorSpec, value: Any, features: Features) -> NDArray[Any]:
    if type(value) is np.ndarray:
        return value
    if _is_named(value):
        if spec.name in features:
            from forwardpass.client._features import rows_by_feature

            return rows_by_feature(spec, features[spec.name], value)
        if isinstance(value, Mapping):
            raise TensorError(
                f"input {spec.name!r}",
                expected="an array, as the model's file has no names for its columns",
                got="a dict",
                fix="send the columns in the model's order, as an array",
            )
    return as_array(spec.name, value, spec.datatype)


def _is_named(value: object) -> bool:
    """Return whether a value brings names for its columns: a dict, or a DataFrame.

    A DataFrame is told by what it offers, as pandas or polars are none of our imports. One
    whose columns are numbers has no names.
    """
    if isinstance(value, Mapping):
        return True
    columns = getattr(value, "columns", None)
    return (
        columns is not None
        and hasattr(value, "to_numpy")
        and any(isinstance(name, str) for name in columns)
    )


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
