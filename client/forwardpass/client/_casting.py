"""One array-like -> an array with the dtype of a model's input.

A cast that only widens or rounds is done, one that changes what a value means is refused:
float64 -> float32 and int -> float pass, float -> int and whatever overflows do not.
"""

from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.spec import TensorError, TensorSpec, check_datatype

_CASTABLE = {"b": "b", "i": "bui", "u": "bui", "f": "buif"}
"""Kinds of dtype that may become a kind; integers are checked against the range besides."""


def as_array(name: str, value: ArrayLike, datatype: str = "") -> NDArray[Any]:
    """Return the value of an input as NumPy reads it; for BYTES, elements stay what they are.

    Raises TensorError if NumPy cannot read it, or if values are masked.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray) and np.ma.is_masked(value):
        raise TensorError(
            f"input {name!r}",
            expected="an array without masked values",
            got=f"{np.ma.getmaskarray(value).sum()} of {value.size}",
            fix="the network needs a number for each: .filled(...) them first",
        )
    try:
        # NumPy's fixed-width strings would drop the NULs at the end of an element.
        dtype = object if datatype == "BYTES" and not isinstance(value, np.ndarray) else None
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise TensorError(
            f"input {name!r}",
            expected="an array",
            got=f"a {type(value).__name__} that NumPy refuses ({error})",
            fix="make all rows of one length, and all values numbers",
        ) from error


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
            fix="this client cannot send that datatype, as NumPy has none of the kind",
        )
    dtype = DATATYPES[spec.datatype].dtype
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in _CASTABLE[dtype.kind]:
        _refuse_kind(spec, array)
    if dtype.kind in "iu":
        _check_range(spec, array, dtype)
    try:
        # NumPy raises for finite values that become infinite, and lets infinities pass.
        with np.errstate(over="raise", under="ignore", invalid="ignore"):
            return array.astype(dtype)
    except FloatingPointError as error:
        limit = np.finfo(dtype).max
        finite = array[np.isfinite(array)]
        raise TensorError(
            f"input {spec.name!r}",
            expected=f"{spec.datatype} values of magnitude up to {limit:g}",
            got=f"{finite[np.abs(finite).argmax()]}",
            fix="scale the values down; they are never sent as infinite",
        ) from error


def _check_range(spec: TensorSpec, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if array.size == 0 or np.can_cast(array.dtype, dtype):
        return
    info = np.iinfo(dtype)
    for value in (int(array.min()), int(array.max())):
        if not info.min <= value <= info.max:
            raise TensorError(
                f"input {spec.name!r}",
                expected=f"{spec.datatype} values in {info.min}..{info.max}",
                got=str(value),
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
    got = str(array.dtype)
    if array.dtype != object:
        with suppress(KeyError):  # a dtype without a datatype
            check_datatype(tensor, spec, datatype_of(array.dtype).name)
    elif array.size:
        got += f" that begins with {array.flat[0]!r}"
    raise TensorError(
        tensor,
        expected=f"datatype {spec.datatype}",
        got=got,
        fix=f"convert the array to {DATATYPES[spec.datatype].dtype.name} before sending",
    )
