"""Numbers as JSON writes them -> FP32 and FP64, rounded once, with the sign of -0.

JSON is read as float64 and then rounded to float32. That is right unless the float64 lies halfway
between two float32 and the text did not: then it is moved off the middle, to the text's side. Few
numbers are halfway, so texts are kept of none, and read again where they are needed.
"""

import math
import re
import struct
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

_USUAL = bytes(each for each in range(256) if each & 0x7F == 0 or 0x39 <= each & 0x7F <= 0x7E)
"""Highest bytes of float64 that are 0, or neither near float32's subnormal numbers nor infinite."""
_NOT_HALFWAY = bytes(each for each in range(256) if each & 0x1F != 0x10)
"""Fourth bytes of float64 that are not halfway between two float32, whatever the lower ones are."""
_HALFWAY = re.compile(rb"(?s:.{8})*?\0\0\0[\x10\x30\x50\x70\x90\xb0\xd0\xf0]")
"""Matches float64 of which one is halfway between two float32, in little-endian order."""
_REST_BITS, _HALF_BITS = 2**29 - 1, 2**28
"""Bits of float64 that float32 lacks; their value in the middle."""
_LEAST_NORMAL = 2.0**-126
_TO_HALVES = 2.0**150
"""Makes odd integers of what is halfway between two subnormal float32."""
_NO_INTEGER = frozenset(".eE")
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")


class Number(str):
    """A number's text, which is no string."""

    __slots__ = ()


class TextNeededError(Exception):
    """Numbers were read without their texts, which are needed."""


def check_read(
    numbers: Sequence[Any], kinds: set[type], datatype: str, text: bytes | memoryview
) -> None:
    """Raise TextNeededError for numbers that have to be read as `read_number` does.

    numbers: All that are finite. kinds: Their types. text: What they are in.

    Raises struct.error for an integer that is too large for float64.
    """
    if (int in kinds and has_minus_zero(text)) or (
        datatype == "FP32" and are_unusual(struct.pack(f"<{len(numbers)}d", *numbers))
    ):
        raise TextNeededError


def are_unusual(doubles: bytes) -> bool:
    """Whether one may be halfway between two float32, is nearly 0 or infinite; most are not.

    doubles: Little-endian float64.
    """
    return bool(doubles[7::8].translate(None, _USUAL)) or (
        # Without all three at one number this is quicker, and all that most need.
        0 in doubles[::8]
        and bool(doubles[3::8].translate(None, _NOT_HALFWAY))
        and _HALFWAY.match(doubles) is not None
    )


def has_minus_zero(text: bytes | memoryview) -> bool:
    """Whether -0 is in a text as an integer, which JSON takes for 0."""
    return _MINUS_ZERO.search(text) is not None


def halfway(numbers: NDArray[Any]) -> NDArray[np.intp]:
    """Return where float64 numbers are halfway between two float32."""
    rest = numbers.view(np.uint64) & np.uint64(_REST_BITS)
    found = rest == _HALF_BITS
    small = np.abs(numbers) < _LEAST_NORMAL
    if small.any():
        found[small] = np.abs(numbers[small] * _TO_HALVES) % 2 == 1
    return np.flatnonzero(found)


def moved(number: float, text: str) -> float:
    """Return a float64 that is halfway between two float32, moved to the side of its text."""
    # Exact, however long both are.
    side = Decimal(text).compare(Decimal(number))
    return math.nextafter(number, math.inf * int(side)) if side else number


def read_number(text: str, datatype: str) -> int | float:
    """Return a number that becomes the one of a datatype that is nearest to a text."""
    number = float(text)
    if datatype == "FP32":
        return moved(number, text) if _is_halfway(number) else number
    if datatype == "FP64" or not _NO_INTEGER.isdisjoint(text):
        return number
    return int(text)


def read_numbers(texts: Iterable[Any], datatype: str) -> list[Any]:
    """Return the same of each `Number`; others as they are."""
    return [read_number(each, datatype) if type(each) is Number else each for each in texts]


def split_numbers(text: str) -> list[Number]:
    """Return the texts of numbers with commas between them."""
    return [Number(each.strip()) for each in text.split(",")]


def _is_halfway(number: float) -> bool:
    if abs(number) < _LEAST_NORMAL:
        return abs(number * _TO_HALVES) % 2 == 1
    (bits,) = struct.unpack("<Q", struct.pack("<d", number))
    return bool(bits & _REST_BITS == _HALF_BITS)
