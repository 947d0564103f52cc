"""Do callers send what the model was made for? Values out of range, and values that are none.

A look at a single row costs more than its run is allowed to lose, so rows are kept until there
are enough of them; of a large batch some rows stand for all.
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
        self._range = (
            (np.array(columns.low, np.float64), np.array(columns.high, np.float64))
            if columns.low
            else None
        )
        self._new: list[NDArray[Any]] = []
        self._new_bytes = 0
        # Guards the sums, and that nothing new is looked at twice.
        self._lock = Lock()
        self._values = Values()

    def add(self, array: NDArray[Any]) -> None:
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
            # What has a range has columns: the last axis, of one length.
            width = 1 if self._range is None else len(self._range[0])
            values = np.concatenate([array.reshape(-1, width) for array in new])
            sums = self._values
            sums.seen += values.size
            nan = values.size - int(np.count_nonzero(values == values))
            sums.nan += nan
            if self._range is not None:
                # Bounds in the values' precision: a float32 is not compared as a float64.
                with np.errstate(over="ignore"):
                    dtype = np.result_type(values.dtype, np.float32)
                    low, high = (bound.astype(dtype) for bound in self._range)
                inside = int(np.count_nonzero((values >= low) & (values <= high)))
                sums.outside += values.size - inside - nan
