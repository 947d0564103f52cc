"""Numbers as protobuf writes them, against protobuf itself."""

import pytest
from google.protobuf.wrappers_pb2 import UInt64Value

from forwardpass.proto.varint import VarintError, read_varint, write_varint


@pytest.mark.parametrize("number", [1, 127, 128, 300, 2**14, 2**31, 2**63, 2**64 - 1])
def test_numbers_are_written_and_read_as_protobuf_does(number: int) -> None:
    # Field 1 of type 0, and the number.
    written = UInt64Value(value=number).SerializeToString()

    assert b"\x08" + write_varint(number) == written
    assert read_varint(written, 1, len(written)) == (number, len(written))
    assert read_varint(memoryview(written + b"\x01"), 1, len(written)) == (number, len(written))


@pytest.mark.parametrize("number", [128, 2**64 - 1])
def test_a_number_that_does_not_end_is_none(number: int) -> None:
    written = write_varint(number)

    with pytest.raises(VarintError):
        read_varint(written, 0, len(written) - 1)
    with pytest.raises(VarintError):
        read_varint(b"", 0, 0)
    with pytest.raises(VarintError):
        read_varint(b"\x80" * 10 + b"\x01", 0, 11)
