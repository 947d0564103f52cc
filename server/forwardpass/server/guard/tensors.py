"""Constants: what a TensorProto declares against the bytes that are there."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from forwardpass.proto.spec import MAX_ELEMENTS, format_shape
from forwardpass.server.guard.errors import GuardError
from forwardpass.server.guard.files import ExternalData

_CHUNK = 2**16
_MAX_RANK = 32


class _Storage(NamedTuple):
    """How the elements of a data type are kept."""

    bits: int
    """Of an element in raw_data; 0: never there."""
    field: str | None
    """The field that has one entry an element; None: kept as raw_data alone."""
    dtype: str = ""
    """Of a float that NumPy can test; empty for the others."""


_STORAGE: Mapping[int, _Storage] = {
    TensorProto.FLOAT: _Storage(32, "float_data", "<f4"),
    TensorProto.DOUBLE: _Storage(64, "double_data", "<f8"),
    TensorProto.FLOAT16: _Storage(16, "int32_data", "<f2"),
    # NumPy has no such dtype: the upper half of a float32.
    TensorProto.BFLOAT16: _Storage(16, "int32_data", "<u2"),
    TensorProto.INT8: _Storage(8, "int32_data"),
    TensorProto.INT16: _Storage(16, "int32_data"),
    TensorProto.INT32: _Storage(32, "int32_data"),
    TensorProto.INT64: _Storage(64, "int64_data"),
    TensorProto.UINT8: _Storage(8, "int32_data"),
    TensorProto.UINT16: _Storage(16, "int32_data"),
    TensorProto.UINT32: _Storage(32, "uint64_data"),
    TensorProto.UINT64: _Storage(64, "uint64_data"),
    TensorProto.BOOL: _Storage(8, "int32_data"),
    TensorProto.STRING: _Storage(0, "string_data"),
    TensorProto.INT4: _Storage(4, None),
    TensorProto.UINT4: _Storage(4, None),
    TensorProto.FLOAT8E4M3FN: _Storage(8, None),
    TensorProto.FLOAT8E5M2: _Storage(8, None),
}
_FIELDS = sorted({storage.field for storage in _STORAGE.values() if storage.field})


def check_tensor(part: str, tensor: TensorProto, external: ExternalData) -> None:
    """Prove that a constant has as many elements as it declares, and that they are finite.

    Raises GuardError.
    """
    storage = _STORAGE.get(tensor.data_type)
    if storage is None:
        raise GuardError(
            part,
            expected="a data type that onnxruntime computes with",
            got=f"data type {tensor.data_type}",
            fix="export the model again",
        )
    check_sizes(part, tensor.dims)
    count = math.prod(tensor.dims)
    # Numbers are read in pieces: all at once would hold up every other thread.
    for values in _pieces(part, tensor, storage, count, external):
        finite = _finite(values, tensor.data_type)
        if not finite.all():
            wrong = values[~finite][0]
            raise GuardError(
                part,
                expected="finite weights",
                got="NaN or infinity"
                if tensor.data_type == TensorProto.BFLOAT16
                else f"{wrong} among its {count}",
                fix="train the network again, or export it from a good checkpoint",
            )


def check_sizes(part: str, sizes: Sequence[int]) -> None:
    """Raise GuardError for sizes of axes that no tensor has."""
    # A zero does not hide that the other axes overflow.
    if (
        len(sizes) > _MAX_RANK
        or min(sizes, default=0) < 0
        or math.prod(max(size, 1) for size in sizes) > MAX_ELEMENTS
    ):
        raise GuardError(
            part,
            expected=f"at most {_MAX_RANK} axes, each 0 or longer, and {MAX_ELEMENTS} elements",
            got=format_shape(sizes[:_MAX_RANK]) + " ..." * (len(sizes) > _MAX_RANK),
            fix="export the model again",
        )


def _pieces(
    part: str, tensor: TensorProto, storage: _Storage, count: int, external: ExternalData
) -> Iterator[NDArray[Any]]:
    """Give the values of a float tensor; check for every tensor that all are there."""
    filled = [name for name in _FIELDS if len(getattr(tensor, name)) > 0]
    if tensor.HasField("segment"):
        raise _misplaced(part, "a segment of a tensor")
    if tensor.data_location == TensorProto.EXTERNAL:
        if tensor.HasField("raw_data") or filled or not storage.bits:
            raise _misplaced(part, "data both in the file and outside, or text outside")
        raw = _external(part, tensor, math.ceil(count * storage.bits / 8), external)
    elif tensor.external_data:
        raise _misplaced(part, "external data in a tensor that is not external")
    elif tensor.HasField("raw_data"):
        if filled or not storage.bits:
            raise _misplaced(part, "raw_data beside other data, or text as raw_data")
        raw = tensor.raw_data
    else:
        if any(name != storage.field for name in filled):
            raise _misplaced(part, f"its data in {filled[0]}")
        entries = getattr(tensor, storage.field) if storage.field else ()
        _check_length(part, tensor, len(entries), count, "elements")
        if storage.dtype:
            yield from _listed(entries, storage)
        return
    _check_length(part, tensor, len(raw), math.ceil(count * storage.bits / 8), "bytes")
    if storage.dtype:
        yield np.frombuffer(raw, storage.dtype)


def _listed(entries: Sequence[Any], storage: _Storage) -> Iterator[NDArray[Any]]:
    for start in range(0, len(entries), _CHUNK):
        piece = entries[start : start + _CHUNK]
        if storage.field == "int32_data":
            # The bits of a 16-bit float.
            yield np.array(piece, np.int64).astype(np.uint16).view(storage.dtype)
        else:
            yield np.array(piece, storage.dtype)


def _external(part: str, tensor: TensorProto, wanted: int, external: ExternalData) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = {}
    for key, default in (("offset", 0), ("length", wanted)):
        text = entries.get(key, str(default))
        # More digits are no size of a file, and Python refuses to read thousands of them.
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise _misplaced(part, f"external data of {key} {text[:30]!r}")
        numbers[key] = int(text)
    _check_length(part, tensor, numbers["length"], wanted, "bytes")
    return external.read(part, entries.get("location", ""), numbers["offset"], wanted)


def _finite(values: NDArray[Any], data_type: int) -> NDArray[Any]:
    # All bits of the exponent set: NaN or infinity.
    is_half = data_type == TensorProto.BFLOAT16
    finite: NDArray[Any] = (values & 0x7F80) != 0x7F80 if is_half else np.isfinite(values)
    return finite


def _check_length(part: str, tensor: TensorProto, got: int, wanted: int, unit: str) -> None:
    if got != wanted:
        shape = format_shape(tensor.dims)
        raise GuardError(
            part,
            expected=f"{wanted} {unit} for its shape {shape}",
            got=str(got),
            fix="copy the file again, whole, or export it",
        )


def _misplaced(part: str, got: str) -> GuardError:
    return GuardError(
        part,
        expected="its data in one place: raw_data, the field of its type or a file beside it",
        got=got,
        fix="export the model again",
    )
