"""Rows of a CSV file."""

import csv
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.cli.rows.chunk import Chunk, Columns, Progress, Wanted, find_columns, no_rows
from forwardpass.cli.rows.lines import Lines


class CsvRows:
    """A CSV file in UTF-8, with a header or without.

    A first line that holds no number, or all names of the features, is the header. Without one
    columns are taken as they stand.
    """

    def __init__(self, name: str, file: IO[bytes], wanted: Wanted) -> None:
        """Read the first line; raises CommandError if there is none or columns are missing."""
        self._name = name
        self._wanted = wanted
        self._lines = Lines(name, file)
        self._rows = self._read()
        first = next(self._rows, None)
        if first is None:
            raise CommandError(f"{name}: expected rows of numbers, got an empty file")
        self._width = len(first[1])
        self._header = _header(first[1], wanted)
        if self._header:
            self._columns = find_columns(name, self._header, wanted)
        else:
            self._columns = Columns(list(range(self._width)), [])
            if wanted.keep:
                raise CommandError(
                    f"{name}: expected a header for --keep {wanted.keep[0]}, got none; "
                    "name the columns in the first line"
                )
            self._rows = _again(first, self._rows)

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Yield the rows; see Source."""
        start = sum(1 for _ in islice(self._rows, skip))
        while lines := list(islice(self._rows, size)):
            yield self._chunk(lines, start)
            start += len(lines)
        if start == 0:
            kept: dict[str, list[str]] = {name: [] for name in self._wanted.keep}
            yield Chunk(source=self._name, x=no_rows(self._wanted), kept=kept, start=0)

    def progress(self) -> Progress:
        """Return the bytes read, and those of the file."""
        return self._lines.progress()

    def close(self) -> None:
        """Nothing is held but the file, which is whose it was."""

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each line that is not empty, with the line's number."""
        reader = csv.reader(self._text())
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except (UnicodeDecodeError, csv.Error) as error:
            raise CommandError(f"{self._name}: not a CSV file in UTF-8 ({error})") from error

    def _text(self) -> Iterator[str]:
        encoding = "utf-8-sig"  # spreadsheets put a byte order mark in front
        for line in self._lines.file:
            self._lines.count(line)
            yield line.decode(encoding)
            encoding = "utf-8"

    def _chunk(self, lines: list[tuple[int, list[str]]], start: int) -> Chunk:
        numbers = [number for number, _ in lines]
        for number, cells in lines:
            if len(cells) != self._width:
                raise CommandError(
                    f"{self._name}: line {number}: expected {self._width} columns, got {len(cells)}"
                )
        kept = {
            name: [cells[column] for _, cells in lines]
            for name, column in zip(self._wanted.keep, self._columns.kept, strict=True)
        }
        names = [self._header[column] for column in self._columns.features] if self._header else []
        return Chunk(
            source=self._name,
            x=self._numbers([cells for _, cells in lines], numbers, names),
            kept=kept,
            start=start,
            columns=names,
            lines=numbers,
        )

    def _numbers(
        self, rows: list[list[str]], lines: list[int], names: list[str]
    ) -> NDArray[np.generic]:
        columns, whole, datatype = (
            self._columns.features,
            self._wanted.whole,
            self._wanted.spec.datatype,
        )
        dtype: Any = np.float64
        if whole:
            dtype = np.uint64 if datatype.startswith("U") else np.int64
        read = int if whole else float
        # itemgetter gives a tuple for several columns alone.
        pick = (
            itemgetter(*columns) if len(columns) > 1 else lambda cells: [cells[c] for c in columns]
        )
        try:
            array = np.array([list(map(read, pick(cells))) for cells in rows], dtype)
        except OverflowError as error:
            raise CommandError(
                f"{self._name}: {error}, the input's datatype is {datatype}"
            ) from error
        except ValueError as error:
            raise self._no_number(rows, lines, names) from error
        return array.reshape(len(rows), len(columns))

    def _no_number(self, rows: list[list[str]], lines: list[int], names: list[str]) -> CommandError:
        """Find the first cell that is none."""
        whole = self._wanted.whole
        for line, cells in zip(lines, rows, strict=True):
            for index, column in enumerate(self._columns.features):
                if not _is_number(cells[column], whole):
                    name = repr(names[index]) if names else column + 1
                    return CommandError(
                        f"{self._name}: line {line}, column {name}: expected a "
                        f"{'whole ' if whole else ''}number, got {cells[column]!r}"
                    )
        return CommandError(f"{self._name}: lines {lines[0]} to {lines[-1]}: expected numbers")


def _header(cells: list[str], wanted: Wanted) -> list[str]:
    """Return the names of the columns; empty if the cells are a row."""
    names = [cell.strip() for cell in cells]
    named = bool(wanted.features) and set(wanted.features) <= set(names)
    return names if named or not any(map(_is_number, cells)) else []


def _again(
    first: tuple[int, list[str]], rest: Iterable[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _is_number(cell: str, whole: bool = False) -> bool:
    try:
        int(cell) if whole else float(cell)
    except ValueError:
        return False
    return True
