"""Rows on their way from a file to a model: what is wanted of it, and what comes at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a model and its caller want of each row."""

    spec: TensorSpec
    """The input that the rows are for."""
    features: tuple[str, ...] = ()
    """Names of its columns; empty if the model's file does not tell them."""
    keep: tuple[str, ...] = ()
    """Columns of the file to pass through."""

    @property
    def whole(self) -> bool:
        """Whether the input takes whole numbers alone."""
        return "INT" in self.spec.datatype


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows that lie one after the other in a file."""

    source: str
    """The file, as people call it."""
    x: NDArray[Any]
    """(rows, ...)."""
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns to pass through, a value for each row."""
    start: int
    """Rows before them."""
    columns: Sequence[str] = ()
    """Names of the columns of x; empty where they have none."""
    lines: Sequence[int] = ()
    """The line of each row; empty for a file that has none."""

    def __len__(self) -> int:
        return len(self.x)

    def place(self, row: int, column: int) -> str:
        """Say where a number is: `rows.csv: line 3, column 'b'`."""
        name = repr(self.columns[column]) if self.columns else str(column + 1)
        return f"{self.source}: {self._row(row)}, column {name}"

    @property
    def span(self) -> str:
        """Say where all of it is: `rows.csv: lines 2 to 4097`."""
        if not len(self):
            return self.source
        first, last = self._row(0), self._row(len(self) - 1)
        if len(self) == 1:
            return f"{self.source}: {first}"
        kind, number = first.split()
        return f"{self.source}: {kind}s {number} to {last.split()[1]}"

    def _row(self, row: int) -> str:
        return f"line {self.lines[row]}" if self.lines else f"row {self.start + row + 1}"


class Progress(NamedTuple):
    """How far a file has been read, in units of its own."""

    done: int
    total: int | None
    """None where nobody knows."""


class Source(Protocol):
    """A file of rows that is being read."""

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Yield all rows after the first `skip`, `size` at a time; one empty chunk for none.

        Raises CommandError that names file, row and column of what is no number.
        """

    def progress(self) -> Progress:
        """Return how far it has been read."""

    def close(self) -> None:
        """Let go of the file."""


class Columns(NamedTuple):
    """Which columns of a file are what."""

    features: list[int]
    kept: list[int]


def find_columns(source: str, header: Sequence[str], wanted: Wanted) -> Columns:
    """Find the model's features and the columns to keep, by their names.

    Without names of features, all columns are features, as they stand, but those to keep.

    Raises CommandError that names the column that is not there, or there twice.
    """
    for name in wanted.keep:
        _check_once(source, header, name, "for --keep")
    kept = [header.index(name) for name in wanted.keep]
    if not wanted.features:
        return Columns([index for index in range(len(header)) if index not in kept], kept)
    for name in wanted.features:
        _check_once(
            source, header, name, f"for each of the model's {len(wanted.features)} features"
        )
    return Columns([header.index(name) for name in wanted.features], kept)


def _check_once(source: str, header: Sequence[str], name: str, why: str) -> None:
    count = header.count(name)
    if count != 1:
        raise CommandError(
            f"{source}: expected one column {why}, got {count} named {name!r}; the file has "
            f"{_few(header)}"
        )


def _few(names: Sequence[str], shown: int = 8) -> str:
    text = ", ".join(map(repr, names[:shown])) or "no columns"
    return f"{text}, and {len(names) - shown} more" if len(names) > shown else text


def no_rows(wanted: Wanted) -> NDArray[Any]:
    """Return the x of a file without rows."""
    shape = (max(0, size) for size in wanted.spec.shape[1:])
    return np.empty((0, *shape), DATATYPES[wanted.spec.datatype].dtype)


def check_range(chunk: Chunk, datatype: str) -> None:
    """Raise CommandError for a finite number that the input's datatype has only as infinite."""
    x = chunk.x
    if not datatype.startswith("FP") or x.dtype.kind not in "fiu" or x.ndim != 2:
        return
    largest = np.finfo(DATATYPES[datatype].dtype).max
    beyond = (np.abs(x) > largest) & np.isfinite(x)
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        raise CommandError(
            f"{chunk.place(row, column)}: expected a number of magnitude up to {largest:g} "
            f"({datatype}), got {x[row, column]:g}; scale it down"
        )
