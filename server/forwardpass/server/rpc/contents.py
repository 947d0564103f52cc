"""Typed contents of inputs: elements as they are on the wire -> arrays.

protobuf's own lists would make a Python object of every element on the way to NumPy.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.inference_pb2 import ModelInferRequest
from forwardpass.proto.tensors import check_count, narrow, object_array, typed_field
from forwardpass.server.rpc.budget import Budget
from forwardpass.server.rpc.method import malformed
from forwardpass.server.rpc.scan import Numbers, TypedContents

_STEP_BYTES = 2**15
"""Maximum size of numbers that are read together, in bytes: NumPy takes many times as much."""
_VARINT_BYTES = 10
_FIXED: Mapping[str, np.dtype[Any]] = {
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}
_INT32, _UINT32, _INT64 = np.dtype("<i4"), np.dtype("<u4"), np.dtype("<i8")


def decode(
    tensor: str, contents: TypedContents, datatype: str, shape: tuple[int, ...], budget: Budget
) -> NDArray[Any]:
    """Read typed contents as an array of `shape`.

    Raises TensorError as `decode_typed` does, and InvalidRequestError for bytes that are no
    numbers and for more elements than there may be.
    """
    field = typed_field(tensor, (*contents.numbers, *contents.texts), datatype)
    if datatype == "BYTES":
        texts = contents.texts.get(field, [])
        check_count(tensor, field, len(texts), shape)
        return object_array(texts).reshape(shape)
    data = contents.numbers.get(field, b"")
    fixed = _FIXED.get(field)
    if fixed is not None:
        if len(data) % fixed.itemsize:
            raise malformed(ModelInferRequest)
        check_count(tensor, field, len(data) // fixed.itemsize, shape)
        return np.frombuffer(data, fixed).reshape(shape)
    count = sum(int(np.count_nonzero(step < 0x80)) for step in _steps(data))
    check_count(tensor, field, count, shape)
    dtype = DATATYPES[datatype].dtype
    budget.take(tensor, count, dtype.itemsize)
    array = np.empty(count, dtype)
    position = 0
    for step in _steps(data):
        numbers = narrow(tensor, _in_field(_varints(step), field), datatype)
        array[position : position + len(numbers)] = numbers
        position += len(numbers)
    return array.reshape(shape)


def _steps(data: Numbers) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of so many whole varints at a time; raises InvalidRequestError."""
    whole = np.frombuffer(data, np.uint8)
    start, end = 0, len(whole)
    while start < end:
        stop = min(end, start + _STEP_BYTES)
        least = max(start, stop - _VARINT_BYTES)
        while stop > least and whole[stop - 1] >= 0x80:
            stop -= 1
        if stop == least:
            raise malformed(ModelInferRequest)
        yield whole[start:stop]
        start = stop


def _varints(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Decode whole varints."""
    values: NDArray[np.uint64] = data.astype(np.uint64)
    ends = np.flatnonzero(data < 0x80)
    if len(ends) == len(data):
        return values
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    longest = int(sizes.max())
    if longest > _VARINT_BYTES:
        raise malformed(ModelInferRequest)
    numbers = values[starts] & np.uint64(0x7F)
    for place in range(1, longest):
        there = np.flatnonzero(sizes > place)
        numbers[there] |= (values[starts[there] + place] & np.uint64(0x7F)) << np.uint64(7 * place)
    return numbers


def _in_field(numbers: NDArray[np.uint64], field: str) -> NDArray[Any]:
    """Return varints in the type of their field, cut to its size as protobuf does."""
    if field == "bool_contents":
        return numbers.astype(np.bool_)
    if field == "int_contents":
        return numbers.astype(_UINT32).view(_INT32)
    if field == "uint_contents":
        return numbers.astype(_UINT32)
    if field == "int64_contents":
        return numbers.view(_INT64)
    return numbers
