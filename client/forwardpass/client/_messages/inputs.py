"""The values that a caller passes -> the arrays of the model's inputs, with a row axis."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.client._messages.casting import as_array
from forwardpass.client._messages.missing import Missing
from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.spec import (
    TensorError,
    TensorSpec,
    check_complete,
    check_name,
    format_shape,
    quote,
)
from forwardpass.proto.tables import Table, check_names, check_rows, index_of, table_of

if TYPE_CHECKING:
    from forwardpass.proto.metadata import ColumnNames

Inputs = ArrayLike | Mapping[str, Any]
"""An array for a model with one input; a table, records or a dict of its features by name; or a
dict of such values by input name."""

Rules = Mapping[str, "ColumnNames"]
"""What a model does with categories and missing values, by the inputs that have any."""

Features = Mapping[str, Sequence[str]]
"""Feature names by input name, of the inputs whose features have names."""


class Given(NamedTuple):
    """The values of a caller for each input, in order; not cast yet."""

    specs: tuple[TensorSpec, ...]
    arrays: tuple[NDArray[Any], ...]
    single_row: bool
    """Whether x came without a row axis, and got one of length 1."""
    index: Any = None
    """The labels of all rows, also if these are some of them; None if x has none."""


def read_inputs(
    specs: Sequence[TensorSpec],
    x: Inputs,
    features: Features,
    missing: Missing = "refuse",
    rules: Rules = MappingProxyType({}),
) -> Given:
    """Return an array for each spec, in order.

    A single row, one axis short of [-1, ...] or [1, ...], gets a row axis of length 1.
    Shapes and dtypes are not checked otherwise.

    missing: how missing values are treated. rules: what the model does with them and with
    categories, by input.

    Raises TensorError if inputs, features or categories are missing or unknown, one is not an
    array, some are single rows and some are not, or their rows have different labels.
    """
    if (
        len(specs) == 1
        and type(x) is np.ndarray
        and x.ndim == len(specs[0].shape)
        and not x.dtype.hasobject
        and not rules
    ):
        # The most frequent case, which needs no further checks.
        return Given(tuple(specs), (x,), single_row=False)
    given = _by_name(specs, x, features)
    arrays = tuple(
        _categories(spec, given[spec.name], rules[spec.name], missing)
        if spec.name in rules and rules[spec.name].categories
        else _read_input(spec, given[spec.name], features, missing, _filled(rules, spec.name))
        for spec in specs
    )
    if len(specs) > 1 and (rules or all(map(_is_column, specs))):
        single = any(
            array.ndim == len(spec.shape) - 1 and not _is_column(spec)
            for spec, array in zip(specs, arrays, strict=True)
        )
        arrays = tuple(
            _as_column(spec, array, single=single) if _is_column(spec) else array
            for spec, array in zip(specs, arrays, strict=True)
        )
        _check_rows(specs, arrays)
    without_row_axis = [
        spec
        for spec, array in zip(specs, arrays, strict=True)
        if array.ndim == len(spec.shape) - 1 and _has_row_axis(spec)
    ]
    of_rows = [(spec.name, given[spec.name]) for spec in specs if _has_row_axis(spec)]
    if not without_row_axis:
        check_rows("x", of_rows)
        index = index_of((value for _, value in of_rows), single_row=False)
        return Given(tuple(specs), arrays, single_row=False, index=index)
    if len(without_row_axis) != sum(map(_has_row_axis, specs)):
        _refuse_mixture(specs, arrays)
    with_row_axis = tuple(
        array[np.newaxis] if _has_row_axis(spec) else array
        for spec, array in zip(specs, arrays, strict=True)
    )
    index = index_of((value for _, value in of_rows), single_row=True)
    return Given(tuple(specs), with_row_axis, single_row=True, index=index)


def undeclared(x: Inputs, missing: Missing = "refuse") -> tuple[TensorSpec, ...]:
    """Return the specs that x itself has, for a model whose inputs the server does not know.

    Raises TensorError if x names no inputs or an array has a dtype without a datatype.
    """
    if not isinstance(x, Mapping):
        raise TensorError(
            "x",
            expected="a dict of arrays, as the server does not report the model's inputs",
            got=type(x).__name__,
            fix="send {name: array}",
        )
    check_rows("x", x.items())
    return tuple(_spec_of(name, as_array(name, value, "", missing)) for name, value in x.items())


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
    """Return the value for each input: x itself for the only one, unless x names it."""
    names = [spec.name for spec in specs]
    if len(specs) == 1:
        # A key that is both the input's and a feature's name is a feature if there are others.
        of_features = names[0] in features and isinstance(x, Mapping) and len(x) > 1
        if (
            not isinstance(x, Mapping)
            or of_features
            or (names[0] in features and names[0] not in x)
        ):
            return {names[0]: x}
    table = table_of("x", x)
    if table is not None and features and not set(table.names) <= set(names):
        return _by_column(specs, table, features)
    if table is None or not (table.is_mapping or all(map(_is_column, specs))):
        raise TensorError(
            "x",
            expected=f"a dict of arrays for {len(specs)} inputs: {', '.join(map(str, specs))}",
            got=f"one {type(x).__name__}",
            fix="send {name: array} with every input",
        )
    for place, name in enumerate(table.names):
        once = "name every column once"
        check_name(f"input {quote(name)}", name, names, table.names[:place], once=once)
    check_complete(names, table.names)
    return {name: table.column(table.names.index(name)) for name in names}


def _by_column(specs: Sequence[TensorSpec], table: Table, features: Features) -> Mapping[str, Any]:
    """Return the value for each input from the columns of all: of its features, or its own."""
    columns = {
        spec.name: features[spec.name]
        if spec.name in features and spec.name not in table.names
        else (spec.name,)
        for spec in specs
    }
    wanted = [name for names in columns.values() for name in names]
    otherwise = "send {input: array} with every input"
    check_names("x", wanted, table.names, otherwise=otherwise, what="columns")
    given = {name: table.column(table.names.index(name)) for name in wanted}
    return {
        name: given[name] if names == (name,) else {each: given[each] for each in names}
        for name, names in columns.items()
    }


def _categories(
    spec: TensorSpec, value: Any, columns: "ColumnNames", missing: Missing
) -> NDArray[Any]:
    """Return the one column of an input of categories; (1,) of a single row."""
    # Imported here, with the contract of files: few models have categories.
    from forwardpass.proto.categories import check_known, read_categories

    tensor = f"input {spec.name!r}"
    table = None if isinstance(value, np.ndarray) else table_of(tensor, value)
    # A Series is a column, whose index names rows, unless it is one row of this column.
    is_series = hasattr(value, "iloc") and value.ndim == 1
    if table is not None and not (is_series and table.names != [spec.name]):
        check_names(tensor, (spec.name,), table.names, otherwise="send its column", what="columns")
        value = table.column(0)
    values = read_categories(tensor, spec.datatype, value)
    check_known(tensor, columns, values, may_miss=missing == "nan")
    return values


def _filled(rules: Rules, name: str) -> tuple[bool, ...]:
    """Return whether the model has a value in place of a missing one, for each column."""
    return tuple(value is not None for value in rules[name].fill) if name in rules else ()


def _read_input(
    spec: TensorSpec,
    value: Any,
    features: Features,
    missing: Missing,
    filled: Sequence[bool] = (),
) -> NDArray[Any]:
    if type(value) is np.ndarray and value.dtype.names is None:
        return as_array(spec.name, value, spec.datatype, missing, filled)
    if spec.name in features:
        table = table_of(f"input {spec.name!r}", value)
        if table is not None:
            from forwardpass.client._messages.features import rows_by_feature

            return rows_by_feature(spec, features[spec.name], table, missing, filled)
    elif isinstance(value, Mapping) or _are_dicts(value):
        raise TensorError(
            f"input {spec.name!r}",
            expected="an array, as the model's file has no names for its columns",
            got="a dict",
            fix="send the columns in the model's order, as an array",
        )
    elif not hasattr(value, "isna"):
        # Only pandas' array of a whole table shows which values are missing.
        table = table_of(f"input {spec.name!r}", value)
        if table is not None and table.names and not isinstance(value, np.ndarray | np.void):
            from forwardpass.client._messages.features import rows_of_columns

            columns = [*map(table.column, range(len(table.names)))]
            return rows_of_columns(spec, table.names, columns, missing, filled)
    return as_array(spec.name, value, spec.datatype, missing, filled)


def _are_dicts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


def _is_column(spec: TensorSpec) -> bool:
    """Whether an input is one column of rows, as skl2onnx writes a model of a table."""
    return spec.shape in ((-1,), (-1, 1))


def _as_column(spec: TensorSpec, array: NDArray[Any], *, single: bool) -> NDArray[Any]:
    """Return the values of an input of one value per row in its shape: (k,) -> (k, 1).

    single: Whether other inputs are single rows, so that one value is one as well.
    """
    if single and array.size == 1:
        return array.reshape(1)
    if len(spec.shape) == 1 or array.ndim > 1:
        return array
    # A scalar is that of one row, whose axis is added later.
    return array.reshape(-1, 1) if array.ndim else array.reshape(1)


def _check_rows(specs: Sequence[TensorSpec], columns: Sequence[NDArray[Any]]) -> None:
    # A graph may broadcast one value to several: the answers would be of rows nobody sent.
    for spec, column in zip(specs, columns, strict=True):
        of_rows = len(spec.shape) == column.ndim and len(specs[0].shape) == columns[0].ndim > 0
        if of_rows and len(column) != len(columns[0]):
            raise TensorError(
                f"input {spec.name!r}",
                expected=f"{len(columns[0])} rows as for {specs[0].name!r}",
                got=str(len(column)),
                fix="send all columns of the same rows",
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
