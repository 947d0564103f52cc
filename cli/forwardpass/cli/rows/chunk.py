"""Rows on their way from a file to a model: the requirements, and the rows read at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorSpec, meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The columns of a row that a model and its caller need, and how they are read."""

    spec: TensorSpec
    """The input of the model."""
    features: tuple[str, ...] = ()
    """Names of its columns; empty if the model's file has none."""
    keep: tuple[str, ...] = ()
    """Columns of the file to pass through, and those of categories."""
    categories: tuple[str, ...] = ()
    """Which of these the model needs."""
    sep: str | None = None
    """The separator of columns in CSV; None to recognize it."""
    decimal: str | None = None
    """The decimal mark in CSV; None to recognize it."""
    na: tuple[str, ...] = ()
    """Texts of CSV for a missing value, besides an empty one."""
    missing: str = "refuse"
    """How missing values are treated: `refuse`, or `nan`."""
    filled: frozenset[str] = frozenset()
    """Features whose missing values are NaN in any case, as the model has others in their place."""
    numbers: bool = True
    """Whether the model has columns of numbers."""
    fixed: Mapping[str, str | None] = field(default_factory=dict)
    """Columns with one value for all rows of the file, taken by name alone; None is null."""

    @property
    def whole(self) -> bool:
        """Whether the input takes only whole numbers."""
        return "INT" in self.spec.datatype


class Typed(list[Any]):
    """A column to pass through from a file whose columns have types, as Arrow's."""

    def __init__(self, values: Sequence[Any], kind: Any) -> None:
        super().__init__(values)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of a file."""

    source: str
    """The name of the file, for errors."""
    x: NDArray[Any]
    """The rows (rows, ...)."""
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns to pass through, a value for each row."""
    start: int
    """Number of rows before them."""
    columns: Sequence[str] = ()
    """Names of the columns of x; empty if they have none."""
    lines: Sequence[int] = ()
    """The line of each row; empty for a file without lines."""

    def __len__(self) -> int:
        return len(self.x)

    def place(self, row: int, column: int) -> str:
        """Return the place of a number: `rows.csv: line 3, column 'b'`."""
        return self.place_in(row, repr(self.columns[column]) if self.columns else str(column + 1))

    def place_in(self, row: int, column: str) -> str:
        """Return the place of a value in a column."""
        return f"{self.source}: {self._row(row)}, column {column}"

    @property
    def span(self) -> str:
        """Return the place of the chunk: `rows.csv: lines 2 to 4097`."""
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
    """The total in the same units; None if it is not known."""


class Source(Protocol):
    """A file of rows that is being read."""

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Yield all rows after the first `skip`, `size` at a time; one empty chunk for none.

        Raises CommandError that names file, row and column of a value that is not a number.
        """

    def progress(self) -> Progress:
        """Return how much of it has been read."""

    def close(self) -> None:
        """Close the files that the source itself has opened."""


class Columns(NamedTuple):
    """The indices of the columns of a file."""

    features: list[int]
    kept: list[int]


def find_columns(source: str, header: Sequence[str], wanted: Wanted) -> Columns:
    """Find the model's features and the columns to keep, by their names.

    header: names of the columns, the fixed ones last.

    Without names of features, all columns but those to keep and the fixed ones are features, in
    their order.

    Raises CommandError that names a column that is missing, or there twice.
    """
    for name in wanted.keep:
        why = "for the model's categories" if name in wanted.categories else "for --keep"
        _check_once(source, header, name, why, wanted)
    kept = [header.index(name) for name in wanted.keep]
    if not wanted.numbers:
        return Columns([], kept)
    if not wanted.features:
        unnamed = range(len(header) - len(wanted.fixed))
        return Columns([index for index in unnamed if index not in kept], kept)
    for name in wanted.features:
        why = f"for each of the model's {len(wanted.features)} features"
        _check_once(source, header, name, why, wanted)
    return Columns([header.index(name) for name in wanted.features], kept)


def _check_once(source: str, header: Sequence[str], name: str, why: str, wanted: Wanted) -> None:
    count = header.count(name)
    if count == 1:
        return
    others = [each for each in header if each not in (*wanted.features, *wanted.keep)]
    near = filter(None, (meant(each, [name]) for each in others))
    fix = next(near, "rename the one that has it, or add it") if not count else "leave one out"
    raise CommandError(
        f"{source}: expected one column {why}, got {count} named {name!r}; the file has "
        f"{_few(header)}; {fix}"
    )


def _few(names: Sequence[str], shown: int = 8) -> str:
    text = ", ".join(map(repr, names[:shown])) or "no columns"
    return f"{text}, and {len(names) - shown} more" if len(names) > shown else text


def no_rows(wanted: Wanted) -> NDArray[Any]:
    """Return the x of a file without rows."""
    shape = (max(0, size) for size in wanted.spec.shape[1:])
    return np.empty((0, *shape), DATATYPES[wanted.spec.datatype].dtype)


def check_range(chunk: Chunk, datatype: str) -> None:
    """Raise CommandError for a finite number that overflows in the input's datatype."""
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
