"""Columns by the names of a model's features -> the rows of its input, in the model's order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.client._casting import as_array, cast
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError, TensorSpec, quote

_NAMED = 5
"""Names that an error lists before it counts the others."""


def rows_by_feature(spec: TensorSpec, features: Sequence[str], value: Any) -> NDArray[Any]:
    """Return the rows (k, n), or for scalars the row (n,), of an input with n named features.

    value: a dict or DataFrame with a column, or a scalar, for each; in any order.

    Raises TensorError that names the features that are missing, those that the model does not
    have, and the one whose values do not fit.
    """
    _check_names(spec, features, list(value if isinstance(value, Mapping) else value.columns))
    columns = [_column(spec, name, value[name]) for name in features]
    lengths = {column.shape for column in columns}
    if len(lengths) > 1:
        odd = next(i for i, column in enumerate(columns) if column.shape != columns[0].shape)
        raise TensorError(
            f"input {spec.name!r}",
            expected="a number for each feature, or columns of one length",
            got=f"{_size(columns[0])} for {features[0]!r} and {_size(columns[odd])} "
            f"for {features[odd]!r}",
            fix="send all features of the same rows",
        )
    dtype = np.dtype(object) if spec.datatype == "BYTES" else DATATYPES[spec.datatype].dtype
    rows = np.empty((*columns[0].shape, len(columns)), dtype)
    for index, column in enumerate(columns):
        rows[..., index] = column
    return rows


def _check_names(spec: TensorSpec, features: Sequence[str], given: list[object]) -> None:
    missing = [name for name in features if name not in given]
    unknown = [name for name in given if name not in features]
    twice = [name for name in features if given.count(name) > 1]
    if not (missing or unknown or twice):
        return
    got = [
        text
        for names, text in (
            (missing, f"none for {_list(missing)}"),
            (unknown, f"one for {_list(unknown)}, which the model does not have"),
            (twice, f"more than one for {_list(twice)}"),
        )
        if names
    ]
    raise TensorError(
        f"input {spec.name!r}",
        expected=f"one column for each of the model's {len(features)} features",
        got=", and ".join(got),
        fix=_fix(spec, missing, unknown, features),
    )


def _fix(
    spec: TensorSpec, missing: Sequence[str], unknown: Sequence[object], features: Sequence[str]
) -> str:
    # Of no use until somebody errs, and as long to import as half of this package.
    from difflib import get_close_matches

    for name in unknown:
        (close, *_) = [*get_close_matches(str(name), missing, 1), ""]
        if close:
            return f"is {quote(name)} meant to be {quote(close)}?"
    if unknown and not missing:
        return f"leave out {_list(unknown)}"
    return f"name them as the model does ({_list(features)}), or send {{{spec.name!r}: array}}"


def _column(spec: TensorSpec, name: str, value: Any) -> NDArray[Any]:
    try:
        array = cast(spec, as_array(spec.name, value, spec.datatype))
        if array.ndim > 1:
            raise TensorError(
                "", expected="a number or one column", got=f"{array.ndim} axes", fix="flatten it"
            )
    except TensorError as error:
        raise TensorError(
            f"input {spec.name!r}, feature {name!r}",
            expected=error.expected,
            got=error.got,
            fix=error.fix,
        ) from error
    return array


def _size(column: NDArray[Any]) -> str:
    return f"{len(column)} values" if column.ndim else "one value"


def _list(names: Sequence[object]) -> str:
    shown = ", ".join(map(quote, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
