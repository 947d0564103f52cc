"""How far callers send other inputs than the model was made for: values out of range, and NaN.

To examine a single row costs more than its run may lose, so rows are kept until there are enough
of them; of large batches, a sample is examined. A flat array of whole rows is compared with the
bounds repeated for as many rows: column by column it takes three times as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorSpec

_KEPT_BYTES = 2**16
"""Maximum bytes kept until they are examined, and maximum bytes examined of one batch."""
_KEPT_ARRAYS = 64
_BATCH_BYTES = 2**12
"""Bytes examined of a large batch on average. Examining all would take a tenth of the time of calls
whose runs are short; and copying a part of each would release Python's lock, which costs a server
of many threads more than the examination."""
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(slots=True)
class Values:
    """Sums over the values of one input that were examined."""

    seen: int = 0
    outside: int = 0
    """Number of values below the least or above the greatest that the file states for a column."""
    nan: int = 0


class Drift:
    """Counts values in the inputs of one model; thread-safe."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        columns: Mapping[str, ColumnNames],
        *,
        by_feature: bool = False,
    ) -> None:
        """Examine inputs of floating-point numbers; their range too, where the file states one.

        by_feature: Whether to count by column, too, where the file names or limits the columns.
        """
        self._inputs = {
            spec.name: _Input(columns.get(spec.name, ColumnNames()), by_feature=by_feature)
            for spec in inputs
            if spec.datatype in _FLOATS
        }

    def look(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Count in the inputs of a run, by name."""
        for name, kept in self._inputs.items():
            kept.add(feeds[name])

    def read(self) -> Mapping[str, Values]:
        """Return the sums by input."""
        return {name: kept.read() for name, kept in self._inputs.items()}

    def read_columns(self) -> Mapping[str, Mapping[str, Values]]:
        """Return the sums by input and name of the column; empty unless they are wanted."""
        return {
            name: columns for name, kept in self._inputs.items() if (columns := kept.read_columns())
        }


class _Input:
    def __init__(self, columns: ColumnNames, *, by_feature: bool) -> None:
        self._range = _Range(columns) if columns.low else None
        self._columns = (
            _Columns(columns) if by_feature and (columns.low or columns.labels) else None
        )
        self._new: list[NDArray[Any]] = []
        self._new_bytes = 0
        self._skip = 0.0
        """Number of large batches to skip, since one was examined."""
        self._random = Random()  # noqa: S311 - a sample
        # Guards the sums, and that no array is examined twice.
        self._lock = Lock()
        self._values = Values()

    def add(self, array: NDArray[Any]) -> None:
        if array.nbytes > _BATCH_BYTES:
            if self._skip >= 1:
                self._skip -= 1
                return
            # At random: callers may send two kinds of rows in turns.
            share = min(array.nbytes, _KEPT_BYTES) / _BATCH_BYTES
            self._skip += self._random.uniform(0, 2 * (share - 1))
        if array.nbytes > _KEPT_BYTES and array.ndim > 1:
            # Copied: a view would keep the whole batch in memory.
            array = array[:: -(-array.nbytes // _KEPT_BYTES)].copy()
        # Without a lock: a sum that misses one array only delays the next examination a little.
        self._new.append(array)
        self._new_bytes += array.nbytes
        if self._new_bytes >= _KEPT_BYTES or len(self._new) >= _KEPT_ARRAYS:
            self._look()

    def read(self) -> Values:
        self._look()
        with self._lock:
            return replace(self._values)

    def read_columns(self) -> Mapping[str, Values]:
        self._look()
        with self._lock:
            return {} if self._columns is None else self._columns.read()

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
            if self._columns is not None:
                self._columns.look(values)


class _Range:
    """The least and the greatest value of each column."""

    def __init__(self, columns: ColumnNames) -> None:
        self._least, self._greatest = columns.low, columns.high
        # The bounds, repeated for the most rows examined so far, in the precision of their values.
        self._low = self._high = np.empty(0, np.float32)

    def inside(self, values: NDArray[Any]) -> int:
        """Count the values in range, of whole rows that are joined in a flat array."""
        # A float32 is not compared as a float64.
        dtype = np.result_type(values.dtype, np.float32)
        if self._low.size < values.size or self._low.dtype != dtype:
            rows = values.size // len(self._least)
            with np.errstate(over="ignore"):
                self._low = np.tile(np.array(self._least, dtype), rows)
                self._high = np.tile(np.array(self._greatest, dtype), rows)
        low, high = self._low[: values.size], self._high[: values.size]
        return int(np.count_nonzero((values >= low) & (values <= high)))


class _Columns:
    """Sums over the values of each column; not thread-safe."""

    def __init__(self, columns: ColumnNames) -> None:
        width = len(columns.low or columns.labels)
        named = len(set(columns.labels)) == width
        self._names = columns.labels if named else tuple(map(str, range(width)))
        self._low = np.array(columns.low or (-np.inf,) * width)
        self._high = np.array(columns.high or (np.inf,) * width)
        self._sums = np.zeros((3, width), np.int64)

    def look(self, values: NDArray[Any]) -> None:
        """Take in whole rows, one behind the other."""
        table = values.reshape(-1, len(self._names))
        # In the precision of the values, as where they are not parted.
        dtype = np.result_type(table.dtype, np.float32)
        with np.errstate(over="ignore"):
            low, high = self._low.astype(dtype), self._high.astype(dtype)
        outside, nan = (table < low) | (table > high), np.isnan(table)
        self._sums[0] += len(table)
        self._sums[1] += outside.sum(axis=0)
        self._sums[2] += nan.sum(axis=0)

    def read(self) -> Mapping[str, Values]:
        """Return the sums by name; columns without one are numbered from 0."""
        return {
            name: Values(*sums)
            for name, sums in zip(self._names, self._sums.T.tolist(), strict=True)
        }
