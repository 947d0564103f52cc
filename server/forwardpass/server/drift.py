"""Do callers send what the model was made for? Values out of range, and values that are none.

A look at a single row costs more than its run is allowed to lose, so rows are kept until there
are enough of them; of large batches some stand for all. A look is at a flat array of whole rows
beside the bounds of as many rows: column by column it takes three times as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorSpec

_KEPT_BYTES = 2**16
"""What waits to be looked at, and the most that is looked at of one batch."""
_KEPT_ARRAYS = 64
_BATCH_BYTES = 2**12
"""What is looked at of large batches on average. Looking at all would take a tenth of the time of
calls whose runs are short; and a copy of a part of each would let go of Python's lock, which costs
a server of many threads more than the look."""
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(slots=True)
class Values:
    """Sums over the values of one input that were looked at."""

    seen: int = 0
    outside: int = 0
    """Below the least or above the greatest value that the file gives for the column."""
    nan: int = 0


class Drift:
    """Looks at the inputs of one model; thread-safe."""

    def __init__(self, inputs: Sequence[TensorSpec], columns: Mapping[str, ColumnNames]) -> None:
        """Look at inputs of floating-point numbers; at their range where the file gives one."""
        self._inputs = {
            spec.name: _Input(columns.get(spec.name, ColumnNames()))
            for spec in inputs
            if spec.datatype in _FLOATS
        }

    def look(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Take in the inputs of a run, by name."""
        for name, kept in self._inputs.items():
            kept.add(feeds[name])

    def read(self) -> Mapping[str, Values]:
        """Return the sums by input."""
        return {name: kept.read() for name, kept in self._inputs.items()}


class _Input:
    def __init__(self, columns: ColumnNames) -> None:
        self._range = _Range(columns) if columns.low else None
        self._new: list[NDArray[Any]] = []
        self._new_bytes = 0
        self._skip = 0.0
        """How many large batches are not looked at, for one that was."""
        self._random = np.random.default_rng()
        # Guards the sums, and that nothing new is looked at twice.
        self._lock = Lock()
        self._values = Values()

    def add(self, array: NDArray[Any]) -> None:
        if array.nbytes > _BATCH_BYTES:
            if self._skip >= 1:
                self._skip -= 1
                return
            # At random: callers may send one kind of rows and another in turns.
            share = min(array.nbytes, _KEPT_BYTES) / _BATCH_BYTES
            self._skip += self._random.uniform(0, 2 * (share - 1))
        if array.nbytes > _KEPT_BYTES and array.ndim > 1:
            # Copied: what is kept would keep the whole batch.
            array = array[:: -(-array.nbytes // _KEPT_BYTES)].copy()
        # Without a lock: a sum that misses one array only makes the next look a little later.
        self._new.append(array)
        self._new_bytes += array.nbytes
        if self._new_bytes >= _KEPT_BYTES or len(self._new) >= _KEPT_ARRAYS:
            self._look()

    def read(self) -> Values:
        self._look()
        with self._lock:
            return replace(self._values)

    def _look(self) -> None:
        with self._lock:
            new = self._new[:]
            del self._new[: len(new)]
            self._new_bytes = 0
            if not new:
                return
            values = np.concatenate([array.reshape(-1) for array in new])
            sums = self._values
            sums.seen += values.size
            nan = int(np.count_nonzero(np.isnan(values)))
            sums.nan += nan
            if self._range is not None:
                sums.outside += values.size - self._range.inside(values) - nan


class _Range:
    """The least and the greatest value of each column."""

    def __init__(self, columns: ColumnNames) -> None:
        self._least, self._greatest = columns.low, columns.high
        # Of as many rows as were looked at so far, in the precision of their values.
        self._low = self._high = np.empty(0, np.float32)

    def inside(self, values: NDArray[Any]) -> int:
        """Count the values of whole rows, one row behind the other, that are in their range."""
        # A float32 is not compared as a float64.
        dtype = np.result_type(values.dtype, np.float32)
        if self._low.size < values.size or self._low.dtype != dtype:
            rows = values.size // len(self._least)
            with np.errstate(over="ignore"):
                self._low = np.tile(np.array(self._least, dtype), rows)
                self._high = np.tile(np.array(self._greatest, dtype), rows)
        low, high = self._low[: values.size], self._high[: values.size]
        return int(np.count_nonzero((values >= low) & (values <= high)))
