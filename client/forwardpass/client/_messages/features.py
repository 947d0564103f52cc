"""Columns by the names of a model's features -> the rows of its input, in the model's order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.client._messages.casting import as_array, cast
from forwardpass.client._messages.missing import Missing
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.proto.tables import Table, check_names, check_rows


def rows_by_feature(
    spec: TensorSpec,
    features: Sequence[str],
    table: Table,
    missing: Missing,
    filled: Sequence[bool] = (),
) -> NDArray[Any]:
    """Return the rows (k, n), or for scalars the row (n,), of an input with n named features.

    table: a column, or a scalar, for each; in any order. filled: whether the model has a value in
    place of a missing one, for each feature.

    Raises TensorError that names the features that are missing, those that the model does not
    have, and the one whose values do not fit.
    """
    otherwise = f"send {{{spec.name!r}: array}}"
    check_names(f"input {spec.name!r}", features, table.names, otherwise=otherwise)
    given = [table.column(table.names.index(name)) for name in features]
    return rows_of_columns(spec, features, given, missing, filled)


def rows_of_columns(
    spec: TensorSpec,
    names: Sequence[str],
    given: Sequence[Any],
    missing: Missing,
    filled: Sequence[bool] = (),
) -> NDArray[Any]:
    """Return the rows (k, n), or for scalars the row (n,), of n columns in the model's order.

    Raises TensorError that names the column whose values do not fit, or are not of the same rows.
    """
    fits = len(filled) == len(names)
    columns = [
        _column(spec, name, column, "nan" if fits and filled[place] else missing)
        for place, (name, column) in enumerate(zip(names, given, strict=True))
    ]
    lengths = {column.shape for column in columns}
    if len(lengths) > 1:
        odd = next(i for i, column in enumerate(columns) if column.shape != columns[0].shape)
        raise TensorError(
            f"input {spec.name!r}",
            expected="a number for each feature, or columns of one length",
            got=f"{_size(columns[0])} for {names[0]!r} and {_size(columns[odd])} "
            f"for {names[odd]!r}",
            fix="send all features of the same rows",
        )
    if columns[0].ndim:
        check_rows(f"input {spec.name!r}", zip(names, given, strict=True))
    dtype = np.dtype(object) if spec.datatype == "BYTES" else DATATYPES[spec.datatype].dtype
    rows = np.empty((*columns[0].shape, len(columns)), dtype)
    for index, column in enumerate(columns):
        rows[..., index] = column
    return rows


def _column(spec: TensorSpec, name: str, value: Any, missing: Missing) -> NDArray[Any]:
    try:
        array = cast(spec, as_array(spec.name, value, spec.datatype, missing))
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
