"""More rows than one call should carry: cut into pieces, and their answers joined."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.client._messages.inputs import Given
from forwardpass.client.model import ModelSpec
from forwardpass.client.prediction import Prediction
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError, TensorSpec, format_shape


def rows_in(given: Given) -> int:
    """Return the number of rows given."""
    return given.arrays[0].shape[0] if given.arrays[0].ndim else 1


def has_rows(spec: ModelSpec, given: Given) -> bool:
    """Return whether all inputs and outputs of the model have a row axis of any length."""
    lengths = {array.shape[:1] for array in given.arrays}
    return (
        not given.single_row
        and len(lengths) == 1
        and () not in lengths
        and all(tensor.shape[:1] == (-1,) for tensor in (*spec.inputs, *spec.outputs))
        and bool(spec.inputs and spec.outputs)
    )


def row_bytes(spec: ModelSpec) -> int | None:
    """Return the bytes of a row in the larger one of request and reply.

    None if it is not known, and if cutting could change an answer, since the server did not
    prove that rows do not depend on one another.
    """
    from forwardpass.proto.metadata import BATCH_INVARIANT

    if spec.properties.get(BATCH_INVARIANT) != "true":
        return None
    sent, answered = _row_bytes(spec.inputs), _row_bytes(spec.outputs)
    return None if sent is None else max(1, sent, answered or 0)


def cut(given: Given, start: int, stop: int) -> Given:
    """Return some of the rows, not copied."""
    return given._replace(arrays=tuple(array[start:stop] for array in given.arrays))


class Joined:
    """The answers of all rows, filled piece by piece so that they are in memory once."""

    def __init__(self, rows: int, size: int, report: Callable[[int, int], None]) -> None:
        """Expect rows in pieces of `size`; report(done, rows) is called after each piece."""
        self._rows = rows
        self._size = size
        self._report = report
        self._done = 0
        self._outputs: dict[str, NDArray[Any]] = {}
        self._first: Prediction | None = None

    def add(self, piece: Prediction) -> None:
        """Add the answer of the next rows.

        Raises TensorError if it does not have a row for each.
        """
        if self._first is None:
            self._first = piece
            self._outputs = {
                name: np.empty((self._rows, *array.shape[1:]), array.dtype)
                for name, array in piece.items()
            }
        start, stop = self._done, min(self._rows, self._done + self._size)
        for name, whole in self._outputs.items():
            array, shape = piece[name], (stop - start, *whole.shape[1:])
            if array.shape != shape:
                raise TensorError(
                    f"output {name!r}",
                    expected=f"shape {format_shape(shape)} for {stop - start} of the rows",
                    got=format_shape(array.shape),
                    fix="the model does not answer row by row: send the rows in one call",
                )
            whole[start:stop] = array
        self._done = stop
        self._report(stop, self._rows)

    def prediction(self) -> Prediction:
        """Return the answer of all rows."""
        first = self._first
        if first is None or self._done != self._rows:
            raise RuntimeError(f"expected {self._rows} rows, got {self._done}")
        for array in self._outputs.values():
            array.flags.writeable = False
        return replace(first, _outputs=self._outputs, id="")


def pieces(rows: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each piece."""
    for begin in range(start, rows, size):
        yield begin, min(rows, begin + size)


def _row_bytes(tensors: tuple[TensorSpec, ...]) -> int | None:
    """Return the bytes of a row; None if rows differ or the length of an axis is not known."""
    size = 0
    for tensor in tensors:
        if tensor.datatype not in DATATYPES or tensor.datatype == "BYTES" or -1 in tensor.shape[1:]:
            return None
        size += DATATYPES[tensor.datatype].dtype.itemsize * prod(tensor.shape[1:])
    return size
