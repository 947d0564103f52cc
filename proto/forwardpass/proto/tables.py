"""Values with names for their columns or rows: tables, records and rows of common libraries.

Each is recognized by its attributes, since none of the libraries is imported. Values with names
are matched by these or rejected: by position, another order would give wrong answers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from forwardpass.proto.spec import TensorError, meant, quote

_NAMELESS = {bool, int, float, str, bytes, list, type(None), np.float64, np.float32, np.int64}
"""Types of elements of lists that have no names."""
_NAMED = 5
"""Maximum names that an error lists."""


class Table(NamedTuple):
    """Columns with names, which may occur twice; of a single row, each is a scalar."""

    names: list[Any]
    column: Callable[[int], Any]
    """The column at an index."""
    is_mapping: bool = False
    """Whether its values may as well be the arrays of several inputs."""


def table_of(tensor: str, value: Any) -> Table | None:
    """Return a value's columns; None for one that has no names for them, as an array.

    tensor: the name of its input, for errors.

    Raises TensorError for a query that was not computed, and for records with different names.
    """
    if isinstance(value, np.ndarray | np.void):
        names = value.dtype.names
        return None if names is None else Table(list(names), lambda i: value[names[i]])
    if isinstance(value, Mapping):
        keys = list(value)
        return Table(keys, lambda i: value[keys[i]], is_mapping=True)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return _records(tensor, value)
    return _labeled_array(value) or _frame(tensor, value) or _row(value)


def _labeled_array(value: Any) -> Table | None:
    """Return the columns of an array of xarray whose last axis has texts as coordinates."""
    dims = getattr(value, "dims", None)
    if not isinstance(dims, tuple) or len(dims) not in (1, 2) or not hasattr(value, "isel"):
        return None
    if dims[-1] not in value.coords:
        return None
    names = value.coords[dims[-1]].values.tolist()
    if not all(isinstance(name, str) for name in names):
        return None
    return Table(names, lambda i: value.isel({dims[-1]: i}).values)


def _frame(tensor: str, value: Any) -> Table | None:
    """Return the columns of a DataFrame of pandas or polars and the like, or of an Arrow table."""
    if hasattr(value, "collect") and not hasattr(value, "to_numpy"):
        raise TensorError(
            tensor,
            expected="rows",
            got=f"a {type(value).__name__}, which is a query",
            fix="send .collect() of it",
        )
    if hasattr(value, "column_names") and callable(getattr(value, "column", None)):
        return Table(list(value.column_names), value.column)
    if type(getattr(value, "dtype", None)).__name__ == "Struct" and hasattr(value, "struct"):
        value = value.struct.unnest()
    columns = getattr(value, "columns", None)
    # An attribute that is a text or a function is not a table's.
    if columns is None or isinstance(columns, str) or not hasattr(columns, "__iter__"):
        return None
    names = list(columns)
    if _are_positions(names):
        return None
    if hasattr(value, "iloc"):
        return Table(names, lambda i: value.iloc[:, i])
    return Table(names, lambda i: value[names[i]])


def _row(value: Any) -> Table | None:
    """Return the cells of one row that has names: a Series, a named tuple, a database's row."""
    if hasattr(value, "iloc"):
        # A DataFrame here has no names of columns, and its index names its rows.
        names = list(value.index) if value.ndim == 1 else []
        if _are_positions(names):
            return None
        # pandas uses NaN for a missing value.
        missing = value.isna()
        return Table(names, lambda i: None if missing.iloc[i] else value.iloc[i])
    fields = getattr(value, "_fields", None)
    if isinstance(fields, tuple):
        return Table(list(fields), lambda i: value[i])
    if callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__"):
        keys = list(value.keys())
        # By position if possible: two columns of a database's row may have the same name.
        by_place = not hasattr(value, "items")
        return Table(keys, lambda i: value[i] if by_place else value[keys[i]])
    return None


def is_missing(element: object) -> bool:
    """Whether an element of an array of objects is None or pandas' NA."""
    return element is None or type(element).__name__ in ("NAType", "NaTType")


def row_labels(value: Any) -> Any:
    """Return the index of a value's rows, of pandas' class; None if it has none.

    Of a mapping, that of the first column that has one.
    """
    if isinstance(value, Mapping):
        return next((each for each in map(row_labels, value.values()) if each is not None), None)
    if hasattr(value, "iloc"):
        return value.index
    dims = getattr(value, "dims", None)
    if isinstance(dims, tuple) and dims and hasattr(value, "indexes"):
        return value.indexes.get(dims[0])
    return None


def index_of(values: Iterable[Any], *, single_row: bool) -> Any:
    """Return the labels of the rows of the first value that has some; None if none has.

    single_row: Whether each is one row.
    """
    for value in values:
        rows = value if isinstance(value, list | tuple) else [value] if single_row else ()
        labels = _names_of_series(rows) if rows else row_labels(value)
        if labels is not None:
            return labels
    return None


def _names_of_series(rows: Sequence[Any]) -> list[Any] | None:
    """Return the label of each row, as `iterrows` gives them; None if some have none."""
    if not all(hasattr(row, "iloc") and row.ndim == 1 for row in rows):
        return None
    labels = [row.name for row in rows]
    return None if any(label is None for label in labels) else labels


def in_order(
    tensor: str, names: Sequence[str], values: Any, *, otherwise: str, what: str = "features"
) -> Any:
    """Return one value, or column, for each name; values without names for them as they are.

    otherwise, what: see `check_names`, which raises TensorError.
    """
    table = table_of(tensor, values) if names else None
    if table is None:
        return values
    check_names(tensor, names, table.names, otherwise=otherwise, what=what)
    return [table.column(table.names.index(name)) for name in names]


def check_names(
    tensor: str,
    features: Sequence[str],
    given: Sequence[object],
    *,
    otherwise: str,
    what: str = "features",
) -> None:
    """Check that there is one column for each feature, in any order, and no other.

    otherwise: What else than naming them all may be done, for errors. what: What they are.

    Raises TensorError that names the features that are missing, and those that the model does not
    have.
    """
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
        tensor,
        expected=f"one column for each of the model's {len(features)} {what}",
        got=", and ".join(got),
        fix=_fix(missing, unknown, f"name them as the model does ({_list(features)})", otherwise),
    )


def _fix(missing: Sequence[str], unknown: Sequence[object], first: str, otherwise: str) -> str:
    for name in unknown:
        if question := meant(str(name), missing):
            return question
    if unknown and not missing:
        return f"leave out {_list(unknown)}"
    return f"{first}, or {otherwise}"


def _list(names: Sequence[object]) -> str:
    shown = ", ".join(map(quote, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def check_rows(tensor: str, columns: Iterable[tuple[str, Any]]) -> None:
    """Check that the values of which each has a part of the rows, by name, have the same index.

    Values without an index, as arrays, go by position.

    Raises TensorError. Rows in another order are not sorted: the order of the answers would be
    that of one of them.
    """
    first: tuple[str, Any] | None = None
    for name, value in columns:
        labels = row_labels(value)
        if labels is None or (first is not None and labels is first[1]):
            continue
        if first is None:
            first = name, labels
        elif not first[1].equals(labels):
            raise TensorError(
                tensor,
                expected=f"the index of {quote(first[0])} for {quote(name)} too, as their values "
                "are of the same rows",
                got=_difference(labels, first[1]),
                fix=_alignment(labels, first[1])
                + "send .to_numpy() of each if they are in the same order",
            )


def _alignment(labels: Any, others: Any) -> str:
    # Of labels that only one of them has, pandas would make rows of missing values.
    same = len(labels) == len(others) and labels.isin(others).all() and others.isin(labels).all()
    return "align them, as pandas.DataFrame(x) does, or " if same else ""


def _difference(labels: Any, others: Any) -> str:
    if len(labels) != len(others):
        return f"{len(labels)} rows and {len(others)}"
    for row, (label, other) in enumerate(zip(labels, others, strict=True)):
        # By text, as NA and NaN equal nothing.
        if repr(label) != repr(other):
            return f"{quote(label)} in row {row} in place of {quote(other)}"
    return f"an index of {labels.dtype} in place of {others.dtype}"


def _records(tensor: str, rows: Sequence[Any]) -> Table | None:
    """Return the columns of rows that have names: the same in each row, in any order."""
    # Most lists are of numbers, or of lists of them.
    if not rows or set(map(type, rows)) <= _NAMELESS:
        return None
    first = _record(rows[0])
    if first is None:
        _check_nameless(tensor, rows)
        return None
    names = first.names
    places: list[tuple[Table, list[int]]] = []
    for number, row in enumerate(rows):
        record = _record(row)
        given = [] if record is None else record.names
        if record is None or len(given) != len(names) or set(given) != set(names):
            odd = [name for name in names if name not in given]
            odd += [name for name in given if name not in names]
            raise TensorError(
                tensor,
                expected=f"row {number} to have the names of row 0",
                got=f"{quote(odd[0])} in only one of them" if odd else "other ones",
                fix="give each row the same names",
            )
        places.append(
            (record, list(range(len(names))) if given == names else [*map(given.index, names)])
        )
    return Table(names, lambda i: [record.column(order[i]) for record, order in places])


def _record(value: Any) -> Table | None:
    """Return one element of a list as a row, if it is one that has names."""
    if isinstance(value, np.void):
        return table_of("", value)
    if isinstance(value, Mapping):
        return table_of("", value)
    if isinstance(value, np.ndarray | list | str | bytes) or _is_table(value):
        return None
    return _labeled_array(value) or _row(value)


def _is_table(value: Any) -> bool:
    """Whether an element of a list has columns of its own."""
    dims = getattr(value, "dims", None)
    return hasattr(value, "columns") or (isinstance(dims, tuple) and len(dims) > 1)


def _check_nameless(tensor: str, rows: Sequence[Any]) -> None:
    """Raise TensorError if elements of a list have names that differ.

    NumPy makes one array of them: of the first, which has no names as a row, others may have.
    """
    first = _names_of(tensor, rows[0])
    for number, row in enumerate(rows):
        names = _names_of(tensor, row)
        if names != first:
            raise TensorError(
                tensor,
                expected=f"element {number} to have the names of element 0, in the same order",
                got=f"{_some(names)} and {_some(first)}",
                fix="put them in one order, or send arrays",
            )


def _names_of(tensor: str, value: Any) -> list[Any] | None:
    """Return the names of an element's columns, or of the values of a row."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return None
    found = table_of(tensor, value)
    return None if found is None else found.names


def _some(names: Sequence[Any] | None) -> str:
    if names is None:
        return "none"
    return ", ".join(map(quote, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")


def _are_positions(names: Sequence[object]) -> bool:
    """Whether names only count the columns, as in a DataFrame without names."""
    return all(
        isinstance(name, int | np.integer) and not isinstance(name, bool) and name == place
        for place, name in enumerate(names)
    )
