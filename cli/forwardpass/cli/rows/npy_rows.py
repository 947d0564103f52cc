"""Rows of a NumPy array on disk."""

from collections.abc import Iterator
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.rows.chunk import Chunk, Progress, Wanted


class NpyRows:
    """A .npy file: rows along its first axis, columns in the model's order."""

    def __init__(self, name: str, file: IO[bytes], wanted: Wanted) -> None:
        """Read its header; raises CommandError for anything but an array of numbers."""
        if wanted.keep:
            raise UsageError(f"--keep: expected a file whose columns have names, got {name}")
        self._name = name
        self._file = file
        try:
            shape, self._columnwise, self._dtype = _read_header(file)
        except (ValueError, EOFError) as error:
            raise CommandError(f"{name}: not a NumPy array ({error})") from error
        if self._dtype.hasobject:
            raise CommandError(f"{name}: expected an array of numbers, got Python objects")
        # A single row may have no row axis.
        single = len(shape) == len(wanted.spec.shape) - 1
        self._shape = (1, *shape) if single else shape
        if not self._shape:
            raise CommandError(f"{name}: expected an array with rows, got a single number")
        self._done = 0

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Yield the rows; see Source."""
        read = self._mapped() if self._columnwise else self._in_turn(skip)
        start = skip
        while start < self._shape[0] or start == 0:
            x = read(start, min(size, self._shape[0] - start))
            yield Chunk(source=self._name, x=x, start=start)
            start += len(x)
            self._done = start
            if not len(x):
                return

    def progress(self) -> Progress:
        """Return the rows read, and those of the array."""
        return Progress(self._done, self._shape[0])

    def close(self) -> None:
        """Close nothing: the caller that opened the file closes it."""

    def _in_turn(self, skip: int) -> Any:
        row_bytes = prod(self._shape[1:]) * self._dtype.itemsize
        for _ in range(skip):
            self._file.read(row_bytes)

        def read(start: int, count: int) -> NDArray[Any]:
            data = self._file.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise CommandError(
                    f"{self._name}: expected {self._shape[0]} rows, as its header says, got "
                    f"{start + len(data) // max(1, row_bytes)}; the file is cut off"
                )
            return np.frombuffer(data, self._dtype).reshape(count, *self._shape[1:])

        return read

    def _mapped(self) -> Any:
        # Stored by columns, as pandas does: a row is spread over the file.
        try:
            array = np.memmap(
                self._file.name, self._dtype, "r", self._file.tell(), self._shape, order="F"
            )
        except (OSError, ValueError, TypeError) as error:
            raise CommandError(
                f"{self._name}: expected rows one after the other, or a whole file on disk, as the "
                f"array is stored by columns ({error}); save numpy.ascontiguousarray of it"
            ) from error
        return lambda start, count: np.ascontiguousarray(array[start : start + count])


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columnwise, dtype = read(file)
    return shape, columnwise and len(shape) > 1, dtype
