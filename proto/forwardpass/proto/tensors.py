"""Arrays to wire tensors and back: raw bytes and typed contents."""

import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.inference_pb2 import InferTensorContents
from forwardpass.proto.spec import TensorError, format_shape

_LENGTH = struct.Struct("<I")


def encode_raw(array: NDArray[Any], datatype: str) -> bytes:
    """Write an array of any shape as raw bytes: row-major, little-endian, no padding.

    A BYTES element, bytes or str (as UTF-8), becomes its length in 4 bytes and its bytes.
    """
    if datatype == "BYTES":
        return b"".join(_encode_elements(array))
    return array.astype(DATATYPES[datatype].dtype, copy=False).tobytes()


def decode_raw(
    tensor: str,
    raw: bytes | memoryview,
    datatype: str,
    shape: tuple[int, ...],
    text: Callable[[bytes | memoryview], bytes] = bytes,
) -> NDArray[Any]:
    """Read raw bytes as an array of `shape`: a read-only view, or bytes objects for BYTES.

    text: Makes the object of an element of BYTES.
    The shape's sizes must not be negative and their product must be bounded (`spec.check_shape`).
    Raises TensorError, before it allocates anything, if the length does not fit the shape.
    """
    count = element_count(shape)
    if datatype == "BYTES":
        elements = _decode_elements(tensor, raw, count, text)
        return object_array(elements).reshape(shape)
    dtype = DATATYPES[datatype].dtype
    if len(raw) != count * dtype.itemsize:
        raise TensorError(
            tensor,
            expected=f"{count * dtype.itemsize} raw bytes "
            f"({datatype}{format_shape(shape)} at {dtype.itemsize} bytes per element)",
            got=str(len(raw)),
            fix="send all bytes of the array, or the shape that they have",
        )
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def decode_typed(
    tensor: str, contents: InferTensorContents, datatype: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read typed contents as an array of `shape`.

    Raises TensorError if they are in another field than the datatype's, in two fields, too few
    or too many, or have an integer outside the datatype's range.
    """
    field = typed_field(tensor, (field.name for field, _ in contents.ListFields()), datatype)
    values = getattr(contents, field)
    check_count(tensor, field, len(values), shape)
    if datatype == "BYTES":
        return object_array(list(values)).reshape(shape)
    # 8- and 16-bit integers are sent as 32-bit ones, and NumPy would wrap them.
    wide = np.array(values, dtype=np.uint64 if DATATYPES[datatype].dtype.kind == "u" else None)
    return narrow(tensor, wide, datatype).reshape(shape)


def typed_field(tensor: str, filled: Iterable[str], datatype: str) -> str:
    """Return the field of typed contents for a datatype.

    filled: The fields that have elements. Raises TensorError if any is another one, and for a
    datatype that has no field.
    """
    field = DATATYPES[datatype].contents_field
    if field is None:
        raise TensorError(
            tensor,
            expected=f"{datatype} as raw_input_contents",
            got="typed contents",
            fix=f"the protocol has no typed field for {datatype}: send raw bytes",
        )
    for name in filled:
        if name != field:
            raise TensorError(
                tensor,
                expected=f"{datatype} data in {field}",
                got=f"data in {name}",
                fix=f"fill only {field}",
            )
    return field


def check_count(tensor: str, field: str, count: int, shape: tuple[int, ...]) -> None:
    """Raise TensorError unless typed contents have as many elements as the shape."""
    if count != (expected := element_count(shape)):
        raise TensorError(
            tensor,
            expected=f"{expected} elements in {field} for shape {format_shape(shape)}",
            got=str(count),
            fix="send every element, or the shape that they have",
        )


def narrow(tensor: str, wide: NDArray[Any], datatype: str) -> NDArray[Any]:
    """Return typed contents in their datatype's dtype; raises TensorError if one is out of range.

    wide: In the type of their field, or a larger one.
    """
    dtype = DATATYPES[datatype].dtype
    if dtype.kind in "iu" and wide.size:
        info = np.iinfo(dtype)
        outside = (wide < info.min) | (wide > info.max)
        if outside.any():
            raise TensorError(
                tensor,
                expected=f"{datatype} values in {info.min}..{info.max}",
                got=str(wide[outside][0]),
                fix="send values in range; they are never wrapped",
            )
    return wide.astype(dtype, copy=False)


def element_count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def object_array(elements: list[bytes]) -> NDArray[Any]:
    """Return BYTES elements as an array of one axis."""
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def _encode_elements(array: NDArray[Any]) -> list[bytes]:
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        if not isinstance(element, str | bytes):
            raise TypeError(f"expected BYTES elements of str or bytes, got {element!r}")
        data = element.encode() if isinstance(element, str) else element
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return parts


def _decode_elements(
    tensor: str,
    raw: bytes | memoryview,
    count: int,
    text: Callable[[bytes | memoryview], bytes],
) -> list[bytes]:
    if len(raw) < count * _LENGTH.size:
        raise _malformed(tensor, count, f"{len(raw)} bytes in all")
    elements: list[bytes] = []
    position, end = 0, len(raw)
    while position < end:
        if len(elements) == count:
            raise _malformed(tensor, count, f"{end - position} bytes more")
        if position + _LENGTH.size > end:
            raise _malformed(tensor, count, f"a length cut short after element {len(elements)}")
        (size,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if position + size > end:
            raise _malformed(
                tensor,
                count,
                f"element {len(elements)} of {size} bytes with {end - position} left",
            )
        elements.append(text(raw[position : position + size]))
        position += size
    if len(elements) != count:
        raise _malformed(tensor, count, str(len(elements)))
    return elements


def _malformed(tensor: str, count: int, got: str) -> TensorError:
    return TensorError(
        tensor,
        expected=f"{count} BYTES elements, each a 4-byte little-endian length and its bytes",
        got=got,
        fix="send one length and its bytes for every element of the shape",
    )
