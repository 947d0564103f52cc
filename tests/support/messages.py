"""Protobuf's wire format, written byte by byte: what no library would write."""

import struct
from collections.abc import Sequence
from typing import Any

from forwardpass.proto import inference_pb2 as pb

_FORMATS = {"fp32_contents": "<f", "fp64_contents": "<d"}


def varint(value: int) -> bytes:
    """A number, of at least 0."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def field(number: int, content: bytes = b"") -> bytes:
    """A field of text, bytes, a message or packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def group(number: int, content: bytes = b"") -> bytes:
    """A group, which proto3 does not have."""
    return varint(number << 3 | 3) + content + varint(number << 3 | 4)


def typed(name: str, values: Sequence[Any], packed: Sequence[bool] = (True,)) -> bytes:
    """InferTensorContents with values in one field, in as many parts as `packed` has entries.

    packed: Whether each part is one field; else every element of it is.
    """
    number = pb.InferTensorContents.DESCRIPTOR.fields_by_name[name].number
    size = -(-len(values) // len(packed)) or 1
    parts = []
    for index, together in enumerate(packed):
        part = values[index * size : (index + 1) * size]
        if name == "bytes_contents":
            parts += [field(number, value) for value in part]
        elif together:
            parts.append(field(number, b"".join(_number(name, value) for value in part)))
        else:
            kind = {"fp32_contents": 5, "fp64_contents": 1}.get(name, 0)
            parts += [varint(number << 3 | kind) + _number(name, value) for value in part]
    return b"".join(parts)


def _number(name: str, value: Any) -> bytes:
    form = _FORMATS.get(name)
    return struct.pack(form, value) if form else varint(int(value) % 2**64)
