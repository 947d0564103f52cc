"""The check of constants: what a TensorProto declares against the bytes that are there."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.spec import MAX_ELEMENTS, format_shape
from forwardpass.server.guard.errors import GuardError
from forwardpass.server.guard.files import ModelBytes, Outside
from forwardpass.server.guard.parse import has_external_data, raw_data
from forwardpass.server.onnx_messages import TensorProto

_CHUNK = 2**16
_MAX_RANK = 32


class _Storage(NamedTuple):
    """How the elements of a data type are stored."""

    bits: int
    """The bits of an element in raw_data; 0 for a type that is never there."""
    field: str
    """The field with one entry for each element, or for as many elements as fit into a byte."""
    dtype: str = ""
    """The NumPy dtype of a float type that is tested for NaN; empty for other types."""


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
    TensorProto.INT4: _Storage(4, "int32_data"),
    TensorProto.UINT4: _Storage(4, "int32_data"),
    TensorProto.FLOAT8E4M3FN: _Storage(8, "int32_data"),
    TensorProto.FLOAT8E4M3FNUZ: _Storage(8, "int32_data"),
    TensorProto.FLOAT8E5M2: _Storage(8, "int32_data"),
    TensorProto.FLOAT8E5M2FNUZ: _Storage(8, "int32_data"),
}
_FIELDS = sorted({storage.field for storage in _STORAGE.values()})


def check_tensor(part: str, tensor: TensorProto, content: ModelBytes) -> str:
    """Prove that a constant has as many elements as it declares, and read them.

    Returns the NaN or infinity found among them, as in `nan among its 6`; empty if all are finite.
    Raises GuardError.
    """
    storage = _storage(part, tensor)
    count = math.prod(tensor.dims)
    found = ""
    # Numbers are read in pieces: all at once would hold up every other thread, and take memory.
    for values in _pieces(part, tensor, storage, count, content):
        wrong = values[~_finite(values, tensor.data_type)]
        if len(wrong) and not found.startswith("nan"):
            names = [_named(value, tensor.data_type) for value in np.unique(wrong)]
            # A NaN says more than an infinity beside it.
            found = f"{'nan' if 'nan' in names else names[0]} among its {count}"
    return found


def data_outside(part: str, tensor: TensorProto) -> Outside | None:
    """Return where the data of a tensor lie; None if they are in its file.

    Raises GuardError if they are in both, or not as many as the tensor declares.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        if has_external_data(tensor):
            raise _misplaced(part, "external data in a tensor that is not external")
        return None
    storage = _storage(part, tensor)
    inside = len(tensor.external_data) > 0 and not has_external_data(tensor)
    if tensor.HasField("raw_data") or inside or _filled(tensor) or not storage.bits:
        raise _misplaced(part, "data both in the file and outside, or text outside")
    wanted = _raw_length(tensor, storage)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = {}
    for key, default in (("offset", 0), ("length", wanted)):
        text = entries.get(key, str(default))
        # More digits are no size of a file, and Python refuses to read thousands of them.
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise _misplaced(part, f"external data of {key} {text[:30]!r}")
        numbers[key] = int(text)
    _check_length(part, tensor, numbers["length"], wanted, "bytes")
    return Outside(entries.get("location", ""), numbers["offset"], wanted)


def raw_size(tensor: TensorProto) -> int:
    """Return the bytes of a constant as it declares itself; nothing of it is proven."""
    storage = _STORAGE.get(tensor.data_type)
    return 0 if storage is None else _raw_length(tensor, storage)


def _storage(part: str, tensor: TensorProto) -> _Storage:
    """Return how a tensor is kept, whose type is known and whose sizes are those of a tensor."""
    storage = _STORAGE.get(tensor.data_type)
    if storage is None:
        raise GuardError(
            part,
            expected="a supported data type, such as FLOAT, FLOAT16, INT8 or INT64",
            got=_type_name(tensor.data_type),
            fix="convert it to one of them, or leave it out where nothing reads it",
        )
    check_sizes(part, tensor.dims)
    return storage


def check_sizes(part: str, sizes: Sequence[int]) -> None:
    """Raise GuardError for sizes of axes that no tensor can have."""
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


def _filled(tensor: TensorProto) -> list[str]:
    return [name for name in _FIELDS if len(getattr(tensor, name)) > 0]


def _raw_length(tensor: TensorProto, storage: _Storage) -> int:
    return math.ceil(math.prod(tensor.dims) * storage.bits / 8)


def _pieces(
    part: str, tensor: TensorProto, storage: _Storage, count: int, content: ModelBytes
) -> Iterator[NDArray[Any]]:
    """Give the values of a float tensor; check for every tensor that all are there."""
    filled = _filled(tensor)
    if tensor.HasField("segment"):
        raise _misplaced(part, "a segment of a tensor")
    if tensor.HasField("raw_data") or tensor.external_data:
        raw = raw_data(tensor, content)
        if filled or not storage.bits or raw is None:
            raise _misplaced(part, "raw_data beside other data, or text as raw_data")
        _check_length(part, tensor, len(raw), _raw_length(tensor, storage), "bytes")
        if storage.dtype:
            size = _CHUNK * storage.bits // 8
            for start in range(0, len(raw), size):
                yield np.frombuffer(raw[start : start + size], storage.dtype)
        return
    if any(name != storage.field for name in filled):
        raise _misplaced(part, f"its data in {filled[0]}")
    entries = getattr(tensor, storage.field)
    in_byte = 8 // storage.bits if 0 < storage.bits < 8 else 1
    _check_length(part, tensor, len(entries), math.ceil(count / in_byte), "elements")
    if storage.dtype:
        yield from _listed(entries, storage)


def _listed(entries: Sequence[Any], storage: _Storage) -> Iterator[NDArray[Any]]:
    for start in range(0, len(entries), _CHUNK):
        piece = entries[start : start + _CHUNK]
        if storage.field == "int32_data":
            # The bits of a 16-bit float.
            yield np.array(piece, np.int64).astype(np.uint16).view(storage.dtype)
        else:
            yield np.array(piece, storage.dtype)


def _finite(values: NDArray[Any], data_type: int) -> NDArray[Any]:
    # All bits of the exponent set: NaN or infinity.
    is_half = data_type == TensorProto.BFLOAT16
    finite: NDArray[Any] = (values & 0x7F80) != 0x7F80 if is_half else np.isfinite(values)
    return finite


def _named(value: Any, data_type: int) -> str:
    if data_type != TensorProto.BFLOAT16:
        return str(value)
    return "nan" if value & 0x7F else "-inf" if value & 0x8000 else "inf"


def _check_length(part: str, tensor: TensorProto, got: int, wanted: int, unit: str) -> None:
    if got != wanted:
        shape = format_shape(tensor.dims)
        raise GuardError(
            part,
            expected=f"{wanted} {unit} for its shape {shape}",
            got=str(got),
            fix="copy the file again, whole, or export it",
        )


def _type_name(data_type: int) -> str:
    known = data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type) if known else f"data type {data_type}"


def _misplaced(part: str, got: str) -> GuardError:
    return GuardError(
        part,
        expected="its data in one place: raw_data, the field of its type or a file beside it",
        got=got,
        fix="export the model again",
    )
