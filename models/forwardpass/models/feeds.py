"""What callers pass as x -> the rows of each input of a network."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.categorical import Categorical
from forwardpass.models.ports import Input
from forwardpass.proto.categories import read_categories
from forwardpass.proto.spec import TensorError, TensorSpec, check_shape
from forwardpass.proto.tables import Table, check_names, check_rows, in_order, is_missing, table_of

if TYPE_CHECKING:
    from forwardpass.models.network import Network

Rows: TypeAlias = Mapping[str, NDArray[Any]]
"""Rows by input name: float32 (N, size), or text objects or int64 (N, 1)."""


class Feed(NamedTuple):
    """The rows of every input."""

    rows: dict[str, NDArray[Any]]
    single: bool
    """Whether x was one row, without the axis of rows."""


def read_feed(network: "Network", x: Any) -> Feed:
    """Return the rows of each input, for what `forward` takes.

    Raises TensorError if a column is missing or unknown, or has another shape, values of another
    kind, or numbers outside float32.
    """
    inputs = network.inputs
    first = inputs[0]
    if len(inputs) == 1 and isinstance(first, Input):
        named = isinstance(x, Mapping) and [*x] == [first.name] != [*first.features]
        array = _numbers(first, x[first.name] if named else x)
        return Feed({first.name: _float32(first, array)}, array.ndim == 1)
    table = table_of("x", x)
    if table is None:
        names = ", ".join(repr(source.name) for source in inputs)
        raise TensorError(
            "x",
            expected=f"a table, or a dict of arrays for the inputs {names}",
            got=f"one {type(x).__name__}",
            fix="send {name: column} with every column",
        )
    columns = {source.name: _columns_of(source, table) for source in inputs}
    wanted = [name for names in columns.values() for name in names]
    otherwise = "give a dict of arrays by input"
    check_names("x", wanted, table.names, otherwise=otherwise, what="columns")
    given = {name: table.column(table.names.index(name)) for name in wanted}
    check_rows("x", given.items())
    parts = {
        source.name: _part(source, {name: given[name] for name in columns[source.name]})
        for source in inputs
    }
    _check_same_rows(parts)
    rows = {name: part.rows[name] for name, part in parts.items()}
    # One row of an array (N, 1) is not known from a column of one row: the others show it.
    return Feed(rows, any(part.single for part in parts.values()))


def as_rows(network: "Network", x: ArrayLike) -> NDArray[np.float32]:
    """Return x as float32 rows (N, s_1) of the one input; one row (s_1,) becomes (1, s_1).

    Columns that have names are matched by them if the input's features have some.

    Raises TensorError as `read_feed` does, and NetworkError if the network has other inputs.
    """
    rows: NDArray[np.float32] = read_feed(network, x).rows[network.input.name]
    return rows


def _columns_of(source: Input | Categorical, table: Table) -> tuple[str, ...]:
    """Return the names of an input's columns in a table: its features', or its own."""
    if isinstance(source, Categorical) or not source.features or source.name in table.names:
        return (source.name,)
    return source.features


def _part(source: Input | Categorical, given: Mapping[str, Any]) -> Feed:
    """Return the rows of one input, from its array or its features' columns."""
    if isinstance(source, Categorical):
        values = read_categories(f"input {source.name!r}", source.datatype, given[source.name])
        return Feed({source.name: values.reshape(-1, 1)}, values.ndim == 1)
    if [*given] == [source.name]:
        array = _numbers(source, given[source.name])
        if source.size == 1 and array.ndim < 2:
            return Feed({source.name: _float32(source, array.reshape(-1, 1))}, array.ndim == 0)
    else:
        array = _numbers(source, given)
    return Feed({source.name: _float32(source, array)}, array.ndim == 1)


def _check_same_rows(parts: Mapping[str, Feed]) -> None:
    first, *others = parts
    for other in others:
        expected, got = (len(parts[name].rows[name]) for name in (first, other))
        if expected != got:
            raise TensorError(
                f"input {other!r}",
                expected=f"{expected} rows as for {first!r}",
                got=str(got),
                fix="send all columns of the same rows",
            )


def _numbers(source: Input, x: Any) -> NDArray[Any]:
    """Return x as an array, its columns in the order of the input's features."""
    subject = f"input {source.name!r}"
    features = source.features
    columns = in_order(subject, features, x, otherwise="pass an array in the input's order")
    if columns is not x:
        check_rows(subject, zip(features, columns, strict=True))
    try:
        array = np.asarray(x) if columns is x else np.stack([*map(np.asarray, columns)], axis=-1)
    except ValueError as error:  # rows, or columns, of different lengths
        raise TensorError(
            subject, expected="an array", got=str(error), fix="pass rows of one length"
        ) from error
    return array if source.fill is None else _with_nan(source.fill, array)


def _with_nan(fill: NDArray[np.float32], array: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in which values that are missing, and will be filled, are NaN.

    Anything else among them stays as it is, to be rejected.
    """
    if array.dtype != object or (fill.size > 1 and array.shape[-1:] != fill.shape):
        return array
    missing = np.vectorize(is_missing, otypes=[bool])(array) & ~np.isnan(fill)
    array = np.where(missing, np.nan, array)
    number = int | float | np.integer | np.floating
    return array.astype(np.float64) if all(isinstance(x, number) for x in array.flat) else array


def _float32(source: Input, given: NDArray[Any]) -> NDArray[np.float32]:
    subject = f"input {source.name!r}"
    if given.dtype.kind not in "biuf":
        raise TensorError(
            subject,
            expected="real numbers",
            got=f"dtype {given.dtype}",
            fix="convert the array to float32",
        )
    if given.ndim == 1:
        given = given[np.newaxis]
    check_shape(subject, TensorSpec(source.name, "FP32", (-1, source.size)), given.shape)
    with np.errstate(over="ignore", under="ignore"):
        rows = given.astype(np.float32)
    overflowed = np.isinf(rows) & np.isfinite(given)
    if overflowed.any():
        raise TensorError(
            subject,
            expected="values within float32's range (up to 3.4e38)",
            got=str(given[overflowed][0]),
            fix="rescale the feature",
        )
    return rows
