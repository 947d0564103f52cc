"""Columns of categories, texts or integers: what a caller has -> what a model's file takes.

A missing value is sent as MISSING_TEXT or MISSING_INTEGER of `metadata`, which also has the rules
of an input (`ColumnNames`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import MISSING_INTEGER, MISSING_TEXT, ColumnNames
from forwardpass.proto.spec import TensorError, format_shape, nearest, quote
from forwardpass.proto.tables import is_missing

_NAMED = 8
"""Maximum categories that an error lists."""


def read_categories(tensor: str, datatype: str, column: Any) -> NDArray[Any]:
    """Return a column's values as texts (`BYTES`) or int64 (`INT64`), missing ones as sent.

    (k, 1), or (1,) for a single value. tensor: the name of the input, for errors.

    Raises TensorError for values of another type and for more than one column.
    """
    given = np.asarray(column, dtype=object)
    if given.ndim > 1 and given.shape[1:] != (1,):
        raise TensorError(
            tensor,
            expected="one column",
            got=f"shape {format_shape(given.shape)}",
            fix="send one category for each row",
        )
    as_text = datatype == "BYTES"
    convert, absent = (_text, MISSING_TEXT) if as_text else (_integer, MISSING_INTEGER)
    elements: list[Any] = []
    for row, each in enumerate(given.ravel().tolist()):
        element = absent if is_missing(each) or each != each else convert(each)
        if element is None:
            raise TensorError(
                tensor,
                expected="texts" if as_text else "integers of 64 bits",
                got=quote(each) + _place(row, given.ndim),
                fix=f"write {str(each)!r}" if as_text else "send the category's number",
            )
        elements.append(element)
    values = np.array(elements, object if as_text else np.int64)
    return values.reshape(-1, 1) if given.ndim else values.reshape(1)


def check_known(tensor: str, columns: ColumnNames, values: NDArray[Any], *, may_miss: bool) -> None:
    """Raise TensorError for the first value for which a model has no answer.

    values: from `read_categories`. may_miss: whether missing ones are sent all the same.
    """
    if columns.unknown != "refuse":
        return
    known = set(columns.categories)
    absent = MISSING_INTEGER if values.dtype == np.int64 else MISSING_TEXT
    for row, each in enumerate(values.ravel().tolist()):
        if each in known or (each == absent and (may_miss or columns.missing is not None)):
            continue
        got = "a missing one" if each == absent else quote(each)
        raise TensorError(
            tensor,
            expected=f"one of its categories ({listed(columns)})",
            got=got + _place(row, values.ndim - 1),
            fix=_fix(columns, each, missing=each == absent),
        )


def listed(columns: ColumnNames) -> str:
    """Return the categories of an input as a short list."""
    shown = ", ".join(map(quote, columns.categories[:_NAMED]))
    more = len(columns.categories) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _place(row: int, axes: int) -> str:
    return f" in row {row}, counting from 0" if axes else ""


def _fix(columns: ColumnNames, value: object, *, missing: bool) -> str:
    if missing:
        return 'fill it in, or pass missing="nan" for no answer'
    near = nearest(value, [*map(str, columns.categories)]) if isinstance(value, str) else None
    return "leave the row out" if near is None else f"is it meant to be {quote(near)}?"


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    # A column with missing values may have its integers as floats.
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or value != value // 1:
        return None
    return int(value) if MISSING_INTEGER <= value < -MISSING_INTEGER else None
