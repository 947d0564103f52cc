"""Long JSON: numbers are read in parts, so that nothing waits for all of it.

Python's parser holds its lock for the whole of a text, and makes objects of 30 bytes of numbers
that may be two characters long.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import check_count, narrow, typed_field
from forwardpass.server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    JsonTooLargeError,
    MessageTooLargeError,
)
from forwardpass.server.rpc.rest.decimals import (
    Number,
    check_read,
    halfway,
    has_minus_zero,
    moved,
    read_numbers,
)

LONG_BYTES = 2**16
"""Minimum size of a text that is read in parts, in bytes."""
_MAX_REST_BYTES = 2**19
"""Maximum size of a text without long lists of numbers, in bytes."""
_WINDOW_BYTES = 2**16
_NUMBER = rb"[-+0-9.eE, \t\r\n]"
_NUMBERS = re.compile(rb"%b{2048,32768}" % _NUMBER)
_NUMBERS_LATER = re.compile(rb"(?<!%b)%b{2048,32768}" % (_NUMBER, _NUMBER))
"""The same after something else: what is too short is not looked at again from its every byte."""
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON has no word for, as strings."""


class Word(str):
    """One of these as a bare word, which is no string."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return it without quotes."""
        return str(self)


NUMERIC = frozenset(name for name, each in DATATYPES.items() if each.contents_field) - {
    "BOOL",
    "BYTES",
}
FLOATS = ("FP32", "FP64")
_NUMBER_KINDS = (int, float, Number)
_INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint64)

_INFINITY = math.inf
_BACKSLASH = ord("\\")


class Part(NamedTuple):
    """Numbers that were read, of any datatype."""

    numbers: NDArray[Any]
    places: NDArray[Any]
    """Where others become FP32: see `moved`."""
    others: NDArray[Any]
    minus_zeros: NDArray[Any]
    """Where -0 is an integer."""


_NOWHERE = np.empty(0, np.intp)

Parts = dict[str, Part]
"""Numbers, by the string that stands for them in a list."""


def has_infinity(numbers: Sequence[Any]) -> bool:
    """Return whether a number as JSON writes them was too large for float64: it has no infinity."""
    return _INFINITY in numbers or -_INFINITY in numbers


def cut_long(text: bytes | memoryview, max_bytes: int) -> tuple[bytes, Parts]:
    """Return JSON whose long lists of numbers are replaced by parts.

    max_bytes: Maximum size of the numbers as tensors.

    Raises ValueError, JsonTooLargeError for too much that is in no such list, and
    MessageTooLargeError for too many numbers.
    """
    # Nobody can know it who writes a text.
    mark = token_hex(8)
    parts: Parts = {}
    kept = bytearray()
    quotes, position, size = 0, 0, 0
    while position < len(text):
        end = min(len(text), position + _WINDOW_BYTES)
        found = _NUMBERS.match(text, position, end) or _NUMBERS_LATER.search(text, position, end)
        if found is not None:
            end = found.start()
        elif end < len(text) and text[end - 1] == _BACKSLASH:
            # It belongs to the next byte, which may be a quote.
            end = _after_backslashes(text, position, end)
        before = bytes(text[position:end])
        kept += before
        quotes += _quotes(before)
        position = end
        if found is not None:
            run = found[0]
            first, last = run.find(b",") + 1, run.rfind(b",")
            if quotes % 2 or not 0 < first < last:
                # In a string, or no list.
                kept += run
            else:
                name = f"{mark}{len(parts)}"
                part = parts[name] = _numbers(run[first:last])
                numbers = part.numbers
                # A tensor of them takes at least half of what they do here: UINT8 are int16.
                size += len(numbers) * max(1, numbers.itemsize // 2)
                if size > max_bytes:
                    raise MessageTooLargeError(size, max_bytes)
                kept += b'%b"%b"%b' % (run[:first], name.encode(), run[last:])
            position = found.end()
        if len(kept) > _MAX_REST_BYTES:
            raise JsonTooLargeError(len(text), _MAX_REST_BYTES)
    return bytes(kept), parts


def _after_backslashes(text: bytes | memoryview, start: int, end: int) -> int:
    """Return where to cut a text that has a backslash before `end`, so that no escape is cut."""
    part = bytes(text[start:end])
    return end + (len(part) - len(part.rstrip(b"\\"))) % 2


def pack_long(
    model: str,
    tensor: Mapping[str, Any],
    datatype: str,
    data: Sequence[Any],
    parts: Parts,
    max_bytes: int,
) -> memoryview:
    """Return numbers that came in parts as raw bytes, and take their parts.

    max_bytes: Maximum size of a message.

    Raises InvalidRequestError, InvalidTensorError as over gRPC, and MessageTooLargeError.
    """
    place = f"input {tensor['name']!r}"
    flat = _flat(place, tensor["shape"], data, parts)
    try:
        field = typed_field(place, (), datatype)
        count = _count(flat, parts)
        check_count(place, field, count, tuple(tensor["shape"]))
        dtype = DATATYPES[datatype].dtype
        if count * dtype.itemsize > max_bytes:
            raise MessageTooLargeError(count * dtype.itemsize, max_bytes)
        packed = np.empty(count, dtype)
        position = 0
        for each in _joined(place, datatype, flat, parts):
            end = position + len(each.numbers)
            packed[position:end] = _cast(place, each, datatype)
            position = end
        return packed.view(np.uint8).data
    except TensorError as error:
        raise InvalidTensorError(model, error) from error


def check_long(data: Any, datatype: str, text: bytes | memoryview) -> None:
    """Raise TextNeededError if numbers beside parts need their texts; before parts are taken."""
    alone: list[Any] = []
    rest = [data] if type(data) is list else []
    while rest:
        for each in rest.pop():
            if type(each) is list:
                rest.append(each)
            elif type(each) in (int, float):
                alone.append(each)
    # What is out of range is refused later, in the order of what may be wrong.
    if not has_infinity(alone):
        with suppress(struct.error):
            check_read(alone, set(map(type, alone)), datatype, text)


def _quotes(text: bytes) -> int:
    """Return how many quotes begin or end a string."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"")
        return text.count(b'"') - text.count(b'\\"')
    return text.count(b'"')


def _numbers(text: bytes) -> Part:
    """Parse numbers between commas; raises ValueError."""
    listed = json.loads(b"[%b]" % text)
    if has_infinity(listed):
        raise ValueError("a number is too large")
    numbers = _array(listed)
    places = halfway(numbers) if numbers.dtype.kind == "f" else _NOWHERE
    with_zeros = has_minus_zero(text)
    if not (places.size or with_zeros):
        return Part(numbers, _NOWHERE, _NOWHERE, _NOWHERE)
    texts = text.split(b",")
    others = [moved(float(numbers[at]), str(texts[at], "ascii")) for at in places]
    zeros = [at for at, each in enumerate(texts) if each.strip() == b"-0"] if with_zeros else []
    return Part(numbers, places, np.array(others, np.float64), np.array(zeros, np.intp))


def _array(numbers: list[Any]) -> NDArray[Any]:
    if set(map(type, numbers)) == {int}:
        least, most = min(numbers), max(numbers)
        for kind in _INTEGERS:
            if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max:
                return np.array(numbers, kind)
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        raise ValueError("an integer is too large") from None


def _flat(place: str, shape: Sequence[int], data: Sequence[Any], parts: Parts) -> Sequence[Any]:
    """Return the elements of nested lists, which have to have the shape."""
    level = list(data)
    if level and type(level[0]) is list:
        level = [level]
        for size in shape:
            for each in level:
                count = _count(each, parts) if type(each) is list else -1
                if count != size:
                    raise InvalidRequestError(
                        f"{place}, data",
                        f"expected nested lists of shape {list(shape)}, or one flat list, got "
                        f"others where the shape has {size}",
                    )
            level = [one for each in level for one in each]
    if has_infinity(level):
        raise InvalidRequestError(f"{place}, data", "expected numbers, got one that is too large")
    level = [WORDS.get(each, each) if isinstance(each, str) else each for each in level]
    for each in level:
        if type(each) not in _NUMBER_KINDS and not (type(each) is str and each in parts):
            raise InvalidRequestError(f"{place}, data", "expected numbers, and nothing else")
    return level


def _count(data: Sequence[Any], parts: Parts) -> int:
    return sum(
        len(parts[each].numbers) if type(each) is str and each in parts else 1 for each in data
    )


def _joined(place: str, datatype: str, flat: Sequence[Any], parts: Parts) -> Iterator[Part]:
    """Yield all numbers in their order; of the parts nothing is left."""
    alone: list[Any] = []
    for each in flat:
        if type(each) is str:
            if alone:
                yield _alone(place, datatype, alone)
                alone = []
            yield parts.pop(each)
        else:
            alone.append(each)
    if alone:
        yield _alone(place, datatype, alone)


def _alone(place: str, datatype: str, numbers: Sequence[Any]) -> Part:
    """Return numbers that are in no long list."""
    try:
        listed = _array(read_numbers(numbers, datatype))
    except (OverflowError, ValueError):
        raise _outside(place, datatype) from None
    return Part(listed, _NOWHERE, _NOWHERE, _NOWHERE)


def _cast(place: str, part: Part, datatype: str) -> NDArray[Any]:
    dtype, numbers = DATATYPES[datatype].dtype, part.numbers
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = numbers.astype(dtype)
            if datatype == "FP32":
                cast[part.places] = part.others
        cast[part.minus_zeros] = -0.0
        if np.count_nonzero(np.isinf(cast)) != np.count_nonzero(np.isinf(numbers)):
            raise _outside(place, datatype)
        return cast
    if numbers.dtype.kind == "f":
        raise InvalidRequestError(f"{place}, data", "expected integers, got a number")
    return narrow(place, numbers, datatype)


def _outside(place: str, datatype: str) -> InvalidRequestError:
    return InvalidRequestError(
        place,
        f"expected {datatype} values within its range, got one outside; send values in range; "
        "they are never wrapped",
    )
