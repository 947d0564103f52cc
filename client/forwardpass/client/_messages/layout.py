"""Replies of a form seen before, read without protobuf.

A model's replies to calls of one shape differ only in their data, and protobuf takes most of
the time of reading one. So the form of a reply is kept: the positions of the data of each
output in it, and the bytes between them. A reply that has exactly the same bytes between is
exactly that reply with other data.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.inference_pb2 import ModelInferResponse
from forwardpass.proto.varint import write_varint


def bytes_field(number: int, length: int) -> bytes:
    """Write the start of a bytes field in a message: number, wire type 2, length."""
    return bytes([number << 3 | 2]) + write_varint(length)


class Layout(NamedTuple):
    """The form of a ModelInferResponse with raw contents of fixed size."""

    model: str
    version: str
    outputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int, int], ...]
    """Name, dtype, shape, start and stop of the data of each output."""
    between: tuple[tuple[int, bytes], ...]
    """Start and content of the bytes between the data."""
    size: int
    """Bytes of the whole reply."""

    @classmethod
    def of(
        cls, reply: bytes, message: ModelInferResponse, arrays: Mapping[str, NDArray[Any]]
    ) -> Self | None:
        """Return the form of a reply, given its message, which is used up, and its arrays.

        None if other replies will not have the same form: typed or BYTES contents, an id, or an
        unusual encoding.
        """
        if message.id or not message.raw_output_contents:
            return None
        if any(array.dtype == object for array in arrays.values()):
            return None
        del message.raw_output_contents[:]
        piece = message.SerializeToString()
        outputs: list[tuple[str, np.dtype[Any], tuple[int, ...], int, int]] = []
        between: list[tuple[int, bytes]] = []
        stop = 0
        for name, array in arrays.items():
            piece += bytes_field(message.RAW_OUTPUT_CONTENTS_FIELD_NUMBER, array.nbytes)
            between.append((stop, piece))
            start = stop + len(piece)
            stop = start + array.nbytes
            outputs.append((name, array.dtype, array.shape, start, stop))
            piece = b""
        layout = cls(
            message.model_name, message.model_version, tuple(outputs), tuple(between), stop
        )
        return layout if layout.fits(reply) else None

    def fits(self, reply: bytes) -> bool:
        """Return whether a reply has this form."""
        return len(reply) == self.size and all(
            reply.startswith(piece, start) for start, piece in self.between
        )

    def read(self, reply: bytes) -> dict[str, NDArray[Any]]:
        """Return the outputs of a reply that fits, read-only."""
        # Data are copied: in place they would not be aligned.
        return {
            name: np.frombuffer(reply[start:stop], dtype).reshape(shape)
            for name, dtype, shape, start, stop in self.outputs
        }
