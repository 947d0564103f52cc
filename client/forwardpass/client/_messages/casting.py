"""One array-like -> an array with the dtype of a model's input.

A cast that only widens or rounds is done, one that changes the meaning of a value is rejected:
float64 -> float32 and int -> float are done, float -> int and overflows are not.
"""

from collections.abc import Sequence
from contextlib import suppress
from math import log10
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.client._messages.missing import (
    Missing,
    as_nan,
    as_numbers,
    integers_of,
    missing_in,
    missing_of_objects,
    unmasked,
)
from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.spec import TensorError, TensorSpec, check_datatype, format_shape, quote

_CASTABLE = {"b": "b", "i": "bui", "u": "bui", "f": "buif"}
"""Kinds of dtype -> the kinds that may be cast to it; integers are checked for the range too."""
_EXACT = 2**53
"""Below it float64 holds every integer."""
_SHOWN = 10**40
"""From it on an error gives the order of magnitude alone: Python does not print every integer."""
_Number = int | float | np.integer | np.floating | np.bool_


def as_array(
    name: str,
    value: ArrayLike,
    datatype: str = "",
    missing: Missing = "refuse",
    filled: Sequence[bool] = (),
) -> NDArray[Any]:
    """Return the value of an input as NumPy reads it; for BYTES, elements keep their types.

    missing: how missing values are treated. filled: whether the model has a value in place of a
    missing one, for each column.

    Raises TensorError if NumPy cannot read it, or if values are missing and `refuse` is set.
    """
    if type(value) is np.ndarray and (value.dtype != object or datatype == "BYTES"):
        return value
    mask = missing_in(value)
    value = unmasked(value)
    try:
        # NumPy's fixed-width strings would drop the NULs at the end of an element.
        dtype = object if datatype == "BYTES" and not isinstance(value, np.ndarray) else None
        array = np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise TensorError(
            f"input {name!r}",
            expected="an array",
            got=f"a {type(value).__name__} that NumPy refuses ({error})",
            fix="make all rows of one length, and all values numbers",
        ) from error
    if mask is None and array.dtype == object:
        mask = missing_of_objects(array)
    if mask is None or not mask.any():
        return array if datatype == "BYTES" else _as_given(value, as_numbers(array), datatype)
    return as_nan(name, array, mask, datatype, missing, filled)


def _as_given(value: ArrayLike, array: NDArray[Any], datatype: str) -> NDArray[Any]:
    """Return the integers of a value that became floats when they were put into one array."""
    if array.dtype.kind != "f" or isinstance(value, np.ndarray):
        return array
    for_integers = datatype in DATATYPES and DATATYPES[datatype].dtype.kind in "iu"
    if not for_integers and not (np.abs(array) >= _EXACT).any():
        return array
    integers = integers_of(np.asarray(value, dtype=object))
    return array if integers is None else integers


def cast(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array with the spec's dtype, itself if it has it; for BYTES, checked.

    Raises TensorError if the cast would change what a value means.
    """
    if spec.datatype == "BYTES":
        return _check_elements(spec, array)
    if spec.datatype not in DATATYPES:
        raise TensorError(
            f"input {spec.name!r}",
            expected=f"datatype {spec.datatype}",
            got=str(array.dtype),
            fix="this client cannot send that datatype, as NumPy has no such dtype",
        )
    dtype = DATATYPES[spec.datatype].dtype
    if array.dtype == dtype:
        return array
    if array.dtype == object and array.size:
        array = _of_objects(spec, array, dtype)
    if array.dtype.kind not in _CASTABLE[dtype.kind]:
        _refuse_kind(spec, array)
    if dtype.kind in "iu":
        _check_range(spec, array, dtype)
    try:
        # NumPy raises for finite values that become infinite, and accepts infinities.
        with np.errstate(over="raise", under="ignore", invalid="ignore"):
            return array.astype(dtype)
    except FloatingPointError as error:
        finite = array[np.isfinite(array)]
        raise _too_large(spec, dtype, f"{finite[np.abs(finite).argmax()]}") from error


def _of_objects(spec: TensorSpec, array: NDArray[np.object_], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of objects as numbers, whose dtype may have to be cast yet.

    Such are integers that no dtype of NumPy holds, and what else is in a table's column.
    """
    for place, element in np.ndenumerate(array):
        if not isinstance(element, _Number):
            # A text among the numbers, for one.
            raise TensorError(
                f"input {spec.name!r}",
                expected=f"datatype {spec.datatype}",
                got=quote(element) + (f" at {format_shape(place)}" if place else ""),
                fix="convert it to a number, or leave the row out",
            )
    if dtype.kind in "iu" and integers_of(array) is not None:
        _check_range(spec, array, dtype)
        return array.astype(dtype)
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        largest = max(map(int, (each for each in array.flat if isinstance(each, int))), key=abs)
        raise _too_large(spec, dtype, _shown(largest)) from error


def _too_large(spec: TensorSpec, dtype: np.dtype[Any], got: str) -> TensorError:
    return TensorError(
        f"input {spec.name!r}",
        expected=f"{spec.datatype} values of magnitude up to {np.finfo(dtype).max:g}",
        got=got,
        fix="scale the values down; they are never sent as infinite",
    )


def _shown(value: int) -> str:
    if abs(value) < _SHOWN:
        return str(value)
    return f"about {'-' if value < 0 else ''}1e{int(log10(abs(value)))}"


def _check_range(spec: TensorSpec, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if array.size == 0 or (array.dtype != object and np.can_cast(array.dtype, dtype)):
        return
    info = np.iinfo(dtype)
    for value in (int(array.min()), int(array.max())):
        if not info.min <= value <= info.max:
            raise TensorError(
                f"input {spec.name!r}",
                expected=f"{spec.datatype} values in {info.min}..{info.max}",
                got=_shown(value),
                fix="send values in range; they are never wrapped",
            )


def _check_elements(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind in "SU":
        return array
    # Only text and bytes: bytes(5) would be five zero bytes.
    for element in array.ravel().tolist():
        if not isinstance(element, bytes | str):
            raise TensorError(
                f"input {spec.name!r}",
                expected="BYTES elements, each of bytes or str",
                got=f"{element!r}",
                fix="convert each element to bytes or str",
            )
    return array


def _refuse_kind(spec: TensorSpec, array: NDArray[Any]) -> NoReturn:
    tensor = f"input {spec.name!r}"
    if array.dtype != object:
        with suppress(KeyError):  # a dtype without a datatype
            check_datatype(tensor, spec, datatype_of(array.dtype).name)
    raise TensorError(
        tensor,
        expected=f"datatype {spec.datatype}",
        got=str(array.dtype),
        fix=f"convert the array to {DATATYPES[spec.datatype].dtype.name} before sending",
    )
