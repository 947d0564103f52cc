"""Rows of a CSV file."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from operator import itemgetter
from typing import IO, Any

import numpy as np
import typer
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.cli.rows.chunk import Chunk, Columns, Progress, Wanted, find_columns, no_rows
from forwardpass.cli.rows.dialects import recognized
from forwardpass.cli.rows.lines import Lines
from forwardpass.cli.rows.numbers import CellError, Reading

_AHEAD = 8
"""Number of lines from which the dialect of a file is recognized."""


class CsvRows:
    """A CSV file in UTF-8, with a header or without.

    A first line that holds no number, or all names of the features, is the header. Without one
    columns are taken in their order. The separators of columns and decimals are recognized unless
    they are given, and reported where they are not comma and point.
    """

    def __init__(self, name: str, file: IO[bytes], wanted: Wanted) -> None:
        """Read the first line; raises CommandError if there is none or columns are missing."""
        self._name = name
        self._wanted = wanted
        self._lines = Lines(name, file)
        text = self._text()
        ahead = self._ahead(text)
        dialect = recognized(ahead, wanted.features, wanted.sep)
        if wanted.decimal is not None:
            dialect = dialect._replace(decimal=wanted.decimal)
        found = wanted.sep is None and dialect.sep != ","
        if found or (wanted.decimal is None and dialect.decimal != "."):
            typer.echo(f"{name}: read with {dialect}; --sep and --decimal change that", err=True)
        self._reading = Reading(wanted.whole, dialect.decimal, wanted.na, wanted.missing)
        self._rows = self._read(chain(ahead, text), dialect.sep)
        first = next(self._rows, None)
        if first is None:
            raise CommandError(f"{name}: expected rows of numbers, got an empty file")
        self._width = len(first[1])
        self._header = _header(first[1], wanted, self._reading)
        if self._header:
            self._columns = find_columns(name, self._header, wanted)
        else:
            self._columns = Columns(list(range(self._width)), [])
            if wanted.keep:
                raise CommandError(
                    f"{name}: expected a header for the column {wanted.keep[0]!r}, got none; "
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
        """Close nothing: the caller that opened the file closes it."""

    def _ahead(self, text: Iterator[str]) -> list[str]:
        """Return the first lines, as many as are needed to recognize the dialect."""
        lines: list[str] = []
        try:
            for line in text:
                lines.append(line)
                # A pipe may be slow: one line is enough, unless decimals may have commas.
                more = recognized(lines, self._wanted.features, self._wanted.sep).sep == ";"
                if line.strip() and (not more or len(lines) >= _AHEAD):
                    break
        except UnicodeDecodeError as error:
            raise self._no_csv(error) from error
        return lines

    def _no_csv(self, error: Exception) -> CommandError:
        return CommandError(
            f"{self._name}: not a CSV file in UTF-8 ({error}); save it as UTF-8, which "
            "spreadsheets offer as 'CSV UTF-8'"
        )

    def _read(self, text: Iterable[str], sep: str) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each line that is not empty, with the line's number."""
        reader = csv.reader(text, delimiter=sep)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._no_csv(error) from error

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
        # itemgetter returns a tuple only for several columns.
        pick: Callable[[list[str]], Sequence[str]] = (
            itemgetter(*columns) if len(columns) > 1 else lambda cells: [cells[c] for c in columns]
        )
        features = self._wanted.features
        filled = [place for place, name in enumerate(features) if name in self._wanted.filled]
        if filled:
            picked = pick

            def pick(cells: list[str]) -> Sequence[str]:
                result = [*picked(cells)]
                for place in filled:
                    if self._reading.is_missing(result[place]):
                        result[place] = "nan"
                return result

        try:
            array = np.array([self._reading.row(pick(cells)) for cells in rows], dtype)
            if not whole and np.isinf(array).any():
                # Written as infinite, or too large for float64.
                array = np.array([[*map(self._reading.cell, pick(cells))] for cells in rows], dtype)
        except OverflowError as error:
            raise CommandError(
                f"{self._name}: {error}, the input's datatype is {datatype}"
            ) from error
        except ValueError as error:
            raise self._no_number(rows, lines, names) from error
        return array.reshape(len(rows), len(columns))

    def _no_number(self, rows: list[list[str]], lines: list[int], names: list[str]) -> CommandError:
        """Return the error for the first cell that is not a number."""
        for line, cells in zip(lines, rows, strict=True):
            for index, column in enumerate(self._columns.features):
                filled = self._wanted.features[index : index + 1] and (
                    self._wanted.features[index] in self._wanted.filled
                )
                if filled and self._reading.is_missing(cells[column]):
                    continue
                try:
                    self._reading.cell(cells[column])
                except CellError as error:
                    name = repr(names[index]) if names else column + 1
                    return CommandError(f"{self._name}: line {line}, column {name}: {error}")
        return CommandError(f"{self._name}: lines {lines[0]} to {lines[-1]}: expected numbers")


def _header(cells: list[str], wanted: Wanted, reading: Reading) -> list[str]:
    """Return the names of the columns; empty if the cells are a row."""
    names = [cell.strip() for cell in cells]
    named = bool(wanted.features) and set(wanted.features) <= set(names)
    numbers = replace(reading, whole=False, na=(), missing="refuse")
    return names if named or not any(_is_number(cell, numbers) for cell in cells) else []


def _again(
    first: tuple[int, list[str]], rest: Iterable[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _is_number(cell: str, reading: Reading) -> bool:
    try:
        reading.cell(cell)
    except CellError:
        return False
    return True
