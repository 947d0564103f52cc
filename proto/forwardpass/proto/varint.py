"""Numbers as protobuf writes them: seven bits a byte, the lowest first."""

_MOST_BITS = 70
"""Of ten bytes."""


class VarintError(ValueError):
    """Bytes that are no number of protobuf, or end within one."""


def read_varint(content: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    """Return the number at a position, and where it ends; raises VarintError.

    end: Where the content ends.
    """
    value = shift = 0
    while at < end and shift < _MOST_BITS:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise VarintError("bytes that end within a number")


def write_varint(value: int) -> bytes:
    """Write a number that is not negative."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
