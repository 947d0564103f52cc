"""ModelInferRequest and ModelInferResponse as bytes, where they have the common form.

A client repeats itself: of two calls with equally many rows, only the id and the tensors'
bytes differ. `split` parts a request there without a protobuf object, so that what was once
parsed and validated is found again by its bytes; `join` writes a reply from parts made before.
Whatever does not have the common form is left to protobuf.
"""

from collections.abc import Sequence
from typing import NamedTuple

# Tags are field number << 3 | wire type 2 (length-delimited), as are all fields of both.
_ID_TAG = 3 << 3 | 2
_RAW_TAG = 7 << 3 | 2
_REPLY_RAW_TAG = bytes([6 << 3 | 2])

_LARGE_BYTES = 2**16
"""What is not copied: below it the copy costs less than the view."""


class Parts(NamedTuple):
    """A ModelInferRequest in three parts."""

    head: bytes
    """All but the other two: equal heads mean equal models, tensors, shapes and parameters."""
    id_field: bytes
    """The request's id with tag and length, which the reply has, too; empty without one."""
    tensors: list[bytes | memoryview]
    """raw_input_contents; large ones are views of the message."""


def split(message: bytes | memoryview) -> Parts | None:
    """Part a serialized ModelInferRequest; None if it is not of the common form.

    That is: every field once where it may stand once, raw tensors last. A message that does
    not parse has no such form either.
    """
    end = len(message)
    position = 0
    id_start = id_end = 0
    try:
        while position < end and (tag := message[position]) != _RAW_TAG:
            # Fields 1 to 6, in order or not: the head keeps their bytes as they are.
            if tag & 7 != 2 or not 0 < tag >> 3 < 7:
                return None
            start, size = _length(message, position + 1)
            if tag == _ID_TAG:
                if id_end:
                    return None
                id_start, id_end = position, start + size
            position = start + size
        head_end = position
        tensors: list[bytes | memoryview] = []
        while position < end:
            if message[position] != _RAW_TAG:
                return None
            start, size = _length(message, position + 1)
            position = start + size
            tensors.append(
                bytes(message[start:position])
                if size < _LARGE_BYTES
                else memoryview(message)[start:position]
            )
    except IndexError:
        return None
    if position != end or not tensors:
        return None
    # protobuf refuses text that is not UTF-8; ASCII is all that is told apart cheaply.
    id_field = bytes(message[id_start:id_end])
    if not id_field[2:].isascii():
        return None
    head = bytes(message[:head_end])
    return Parts(head[:id_start] + head[id_end:] if id_end else head, id_field, tensors)


def join(head: bytes, id_field: bytes, outputs: bytes, tensors: Sequence[bytes]) -> bytes:
    """Write a ModelInferResponse: fields 1 and 2, the id, field 5, raw_output_contents."""
    parts = [head, id_field, outputs]
    for tensor in tensors:
        parts += (raw_output_start(len(tensor)), tensor)
    return b"".join(parts)


def raw_output_start(size: int) -> bytes:
    """Write what comes before an entry of raw_output_contents of so many bytes."""
    return _REPLY_RAW_TAG + _varint(size)


def length_delimited(field: int, *parts: bytes) -> bytes:
    """Write a field that holds text, bytes or a message, here as the parts that make it up."""
    return b"".join((_varint(field << 3 | 2), _varint(sum(map(len, parts))), *parts))


def _length(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """Read a length at a position; return where what it measures starts, and the length.

    Raises IndexError where the message ends before the length does.
    """
    size = message[position]
    position += 1
    if size < 0x80:
        return position, size
    size &= 0x7F
    shift = 7
    while True:
        byte = message[position]
        position += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return position, size
        shift += 7
        if shift > 28:
            # No length of a message under 2 GiB is that long.
            raise IndexError


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
