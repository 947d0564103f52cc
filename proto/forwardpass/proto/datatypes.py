"""The table of wire datatypes (`FP32`) and NumPy dtypes (`float32`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type of the wire protocol."""

    name: str
    """Name in messages, as in `FP32`."""
    dtype: np.dtype[Any]
    """Little-endian NumPy dtype; `object` (elements of type bytes) for BYTES."""
    contents_field: str | None
    """Field of InferTensorContents for its values; None if they can only be raw bytes."""


def _datatype(name: str, dtype: str, contents_field: str | None) -> tuple[str, Datatype]:
    return name, Datatype(name, np.dtype(dtype), contents_field)


DATATYPES: Mapping[str, Datatype] = MappingProxyType(
    dict(
        [
            _datatype("BOOL", "?", "bool_contents"),
            _datatype("UINT8", "<u1", "uint_contents"),
            _datatype("UINT16", "<u2", "uint_contents"),
            _datatype("UINT32", "<u4", "uint_contents"),
            _datatype("UINT64", "<u8", "uint64_contents"),
            _datatype("INT8", "<i1", "int_contents"),
            _datatype("INT16", "<i2", "int_contents"),
            _datatype("INT32", "<i4", "int_contents"),
            _datatype("INT64", "<i8", "int64_contents"),
            _datatype("FP16", "<f2", None),
            _datatype("FP32", "<f4", "fp32_contents"),
            _datatype("FP64", "<f8", "fp64_contents"),
            _datatype("BYTES", "O", "bytes_contents"),
        ]
    )
)
"""Every datatype by its wire name. BF16 is missing: NumPy has no such dtype."""

_BY_DTYPE = {datatype.dtype: datatype for datatype in DATATYPES.values()}


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """Return the wire datatype of a NumPy dtype of any byte order; strings are BYTES.

    Raises KeyError for a dtype without one (complex, datetime, ...).
    """
    if dtype.kind in "SUO":
        return DATATYPES["BYTES"]
    return _BY_DTYPE[dtype.newbyteorder("<")]
