"""ModelInferRequest and ModelInferResponse as bytes, if they have the common form.

Clients repeat themselves: two calls with equally many rows differ only in the id and the
tensors' bytes. `split` separates these without a protobuf object, so that a request validated
before is recognized by its bytes; `join` writes a reply from prepared parts. Messages without
the common form are left to protobuf.
"""

from collections.abc import Sequence
from typing import NamedTuple

from forwardpass.proto.varint import write_varint

# Tags are field number << 3 | wire type 2 (length-delimited), the type of all fields in both.
_ID_TAG = 3 << 3 | 2
_RAW_TAG = 7 << 3 | 2
_REPLY_RAW_TAG = bytes([6 << 3 | 2])

LARGE_BYTES = 2**16
"""Minimum size of a tensor that is not copied, in bytes; below it a view costs more."""
_MAX_HEAD_BYTES = 2**11
"""Maximum size of what is before the tensors in the common form, in bytes."""
_MAX_TENSORS = 2**8


class Parts(NamedTuple):
    """A ModelInferRequest in three parts."""

    head: bytes
    """All other bytes: equal heads mean equal models, tensors, shapes and parameters."""
    id_field: bytes
    """The request's id with tag and length, as in the reply; empty without one."""
    tensors: list[bytes | memoryview]
    """raw_input_contents; large ones are views of the message."""


def split(message: bytes | memoryview) -> Parts | None:
    """Split a serialized ModelInferRequest; None if it does not have the common form.

    In that form, each singular field occurs at most once, raw tensors come last and the head is
    small. A message that does not parse does not have it either.
    """
    end = len(message)
    position = 0
    id_start = id_end = 0
    try:
        # Both loops end soon: a message may consist of millions of fields.
        stop = end if end < _MAX_HEAD_BYTES else _MAX_HEAD_BYTES
        while position < stop and (tag := message[position]) != _RAW_TAG:
            # Fields 1 to 6 in any order: the head keeps their bytes as they are.
            if tag & 7 != 2 or not 0 < tag >> 3 < 7:
                return None
            start, size = _length(message, position + 1)
            if tag == _ID_TAG:
                if id_end:
                    return None
                id_start, id_end = position, start + size
            position = start + size
        head_end = position
        if head_end > _MAX_HEAD_BYTES:
            return None
        tensors: list[bytes | memoryview] = []
        while position < end:
            if message[position] != _RAW_TAG or len(tensors) == _MAX_TENSORS:
                return None
            start, size = _length(message, position + 1)
            position = start + size
            tensors.append(
                bytes(message[start:position])
                if size < LARGE_BYTES
                else memoryview(message)[start:position]
            )
    except IndexError:
        return None
    if position != end or not tensors:
        return None
    # protobuf rejects text that is not UTF-8; only ASCII can be checked cheaply.
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
    """Write the bytes before an entry of raw_output_contents of `size` bytes."""
    return _REPLY_RAW_TAG + write_varint(size)


def length_delimited(field: int, *parts: bytes | memoryview) -> bytes:
    """Write a field of text, bytes or a message, given in parts."""
    return b"".join((write_varint(field << 3 | 2), write_varint(sum(map(len, parts))), *parts))


def _length(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """Read a length at a position; return the start of the content, and the length.

    Raises IndexError if the message ends inside the length.
    """
    # Not `read_varint`, which takes half as long again: every call passes here for each field.
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
