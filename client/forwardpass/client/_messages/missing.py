"""Values that are missing: pandas' NA, NaN and None, nulls of polars and Arrow, masked ones.

By default they are rejected; they are sent as NaN if the caller chooses that. A plain NaN of a
NumPy array or a list is a value, whose meaning the model decides.
"""

import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tables import is_missing

Missing: TypeAlias = Literal["refuse", "nan"]
"""How they are treated: rejected with column and row, or sent as NaN."""


def check_missing(missing: str) -> None:
    """Raise ValueError for an unknown setting."""
    if missing not in ("refuse", "nan"):
        raise ValueError(f"missing: expected 'refuse' or 'nan', got {missing!r}")


def missing_in(value: Any) -> NDArray[np.bool_] | None:
    """Return which of a container's values are missing; None if it has no such information."""
    if isinstance(value, np.ma.MaskedArray):
        # Each field of records has its own mask.
        return np.ma.getmaskarray(value) if value.dtype.names is None else None
    for name in ("isna", "is_null"):
        ask = getattr(value, name, None)
        if callable(ask):
            return np.asarray(ask(), dtype=bool)
    return None


def unmasked(value: Any) -> Any:
    """Return a list or tuple with None for masked values inside of it; anything else as it is.

    NumPy would read the number below a mask as the value.
    """
    if not isinstance(value, (list, tuple)):
        return value
    kinds = set(map(type, value))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        return [
            each.tolist() if isinstance(each, np.ma.MaskedArray) else unmasked(each)
            for each in value
        ]
    if not any(issubclass(kind, (list, tuple)) for kind in kinds):
        return value
    parts = [unmasked(each) for each in value]
    return value if all(map(operator.is_, parts, value)) else parts


def missing_of_objects(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which elements of an array of objects are None or pandas' NA."""
    mask = np.fromiter(map(is_missing, array.ravel().tolist()), bool, array.size)
    return mask.reshape(array.shape)


def as_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of objects with a dtype that holds its numbers; else unchanged.

    Integers are never read as floats, which hold 53 bits: those that fit neither int64 nor uint64
    stay objects.
    """
    if array.dtype != object or not array.size:
        return array
    try:
        numbers = np.array(array.tolist())
    except (ValueError, OverflowError):
        return array
    if numbers.shape != array.shape:
        return array
    if numbers.dtype.kind == "f":
        return numbers if (whole := integers_of(array)) is None else whole
    # NumPy reads texts as numbers only with an explicit dtype.
    return numbers if numbers.dtype.kind in "bui" else array


def integers_of(objects: NDArray[np.object_]) -> NDArray[Any] | None:
    """Return an array of objects as int64 or uint64, or unchanged if neither holds them.

    None if some are no integers. NumPy makes floats of a list if uint64 holds some of its integers
    and int64 others.
    """
    elements = objects.ravel().tolist()
    if not all(isinstance(element, int | np.integer) for element in elements):
        return None
    low, high = min(map(int, elements), default=0), max(map(int, elements), default=0)
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return objects.astype(dtype)
    return objects


def as_nan(
    name: str,
    array: NDArray[Any],
    mask: NDArray[np.bool_],
    datatype: str,
    missing: Missing,
    filled: Sequence[bool] = (),
) -> NDArray[Any]:
    """Return a copy with NaN where values are missing.

    filled: whether the model has a value in place of a missing one, for each column.

    Raises TensorError, which names the first, if they are rejected or the input has no NaN.
    """
    # Empty for an input that the server does not describe.
    has_nan = not datatype or (datatype in DATATYPES and DATATYPES[datatype].dtype.kind == "f")
    refused = mask
    if len(filled) == 1 or (len(filled) > 1 and mask.shape[-1:] == (len(filled),)):
        refused = mask & ~np.array(filled)
    if (missing == "refuse" and refused.any()) or not has_nan:
        mask = refused if has_nan else mask
        first = np.argwhere(mask)[0].tolist() if mask.ndim else []
        row = f" in row {first[0]}, counting from 0" if first else ""
        column = f", column {first[1]}" if len(first) > 1 else ""
        count = int(mask.sum())
        raise TensorError(
            f"input {name!r}",
            expected="a value everywhere",
            got=f"a missing one{row}{column} ({count} of {mask.size})",
            fix='fill it in, or pass missing="nan" to send NaN'
            if has_nan
            else f"fill it in, as {datatype} has no NaN",
        )
    present = as_numbers(array[~mask])
    if present.size and present.dtype.kind not in "buif":
        if array.dtype != object:
            return array
        # The cast reads integers of any size, and names what is no number.
        present = array.copy()
        present[mask] = np.nan
        return present
    numbers = np.full(array.shape, np.nan, np.float64)
    if present.size:
        numbers[~mask] = present
    return numbers
