"""Rows of JSON lines."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.cli.rows.chunk import Chunk, Progress, Wanted, find_columns, no_rows
from forwardpass.cli.rows.lines import Lines
from forwardpass.cli.rows.numbers import CellError, missing_text


def _finite(text: str) -> float:
    """Return the number of a JSON text, unless it overflows in float64."""
    number = float(text)
    if math.isinf(number):
        raise CellError(f"expected a number of magnitude up to 1.8e308, got {text}")
    return number


class JsonlRows:
    """A row in each line: an object of features by name, or an array in the model's order."""

    def __init__(self, name: str, file: IO[bytes], wanted: Wanted) -> None:
        """Prepare; nothing is read yet."""
        self._name = name
        self._wanted = wanted
        self._lines = Lines(name, file)
        self._names: tuple[str, ...] | None = None
        """Names of the columns in the first line; empty if lines are arrays."""

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Yield the rows; see Source."""
        rows = self._read()
        start = sum(1 for _ in islice(rows, skip))
        while lines := list(islice(rows, size)):
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

    def _read(self) -> Iterator[tuple[int, bytes]]:
        for number, line in enumerate(self._lines.file, start=1):
            self._lines.count(line)
            if not line.isspace():
                yield number, line

    def _chunk(self, lines: list[tuple[int, bytes]], start: int) -> Chunk:
        numbers = [number for number, _ in lines]
        rows = [self._row(number, line) for number, line in lines]
        names = self._names or ()
        keep = self._wanted.keep
        x = self._array([cells for cells, _ in rows], numbers, names)
        kept = {name: [values[i] for _, values in rows] for i, name in enumerate(keep)}
        return Chunk(source=self._name, x=x, kept=kept, start=start, columns=names, lines=numbers)

    def _row(self, number: int, line: bytes) -> tuple[list[Any], list[Any]]:
        """Return the cells of the features and of the columns to keep."""
        where = f"{self._name}: line {number}"
        try:
            row = json.loads(line, parse_float=_finite)
        except CellError as error:
            raise CommandError(f"{where}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise CommandError(f"{where}: not JSON ({error})") from error
        if self._names is None:
            self._names = self._columns(where, row)
        if isinstance(row, dict) and (self._names or self._wanted.keep):
            try:
                return [row[name] for name in self._names], [row[key] for key in self._wanted.keep]
            except KeyError as error:
                raise CommandError(
                    f"{where}: expected a value for {error.args[0]!r}, got none; give each line "
                    "the same names"
                ) from error
        if isinstance(row, list) and not self._names:
            return row, []
        raise CommandError(
            f"{where}: expected {'an object' if self._names else 'an array'} as in the first "
            f"line, got {type(row).__name__}"
        )

    def _columns(self, where: str, row: Any) -> tuple[str, ...]:
        if isinstance(row, dict):
            header = list(row)
            return tuple(header[index] for index in find_columns(where, header, self._wanted)[0])
        if not isinstance(row, list) or self._wanted.keep:
            raise CommandError(
                f"{where}: expected an object of values by name"
                f"{'' if self._wanted.keep else ', or an array of numbers'}, got {row!r:.40}"
            )
        return ()

    def _array(self, rows: list[list[Any]], lines: list[int], names: Sequence[str]) -> NDArray[Any]:
        whole = self._wanted.whole
        kinds = "iu" if whole else "iufb"
        if self._wanted.missing == "nan" and not whole:
            rows = [[math.nan if cell is None else cell for cell in cells] for cells in rows]
        filled = [place for place, name in enumerate(names) if name in self._wanted.filled]
        for cells in rows if filled else ():
            for place in filled:
                cells[place] = math.nan if cells[place] is None else cells[place]
        try:
            array = np.array(rows)
        except ValueError:
            array = np.array([], object)
        if array.dtype.kind in kinds or not rows[0]:
            return array
        for line, cells in zip(lines, rows, strict=True):
            if len(cells) != len(rows[0]):
                raise CommandError(
                    f"{self._name}: line {line}: expected {len(rows[0])} values, got {len(cells)}"
                )
            for index, cell in enumerate(cells):
                if not self._fits(cell, kinds):
                    name = repr(names[index]) if names else index + 1
                    if cell is None:
                        text = missing_text("null", whole=whole)
                        raise CommandError(f"{self._name}: line {line}, column {name}: {text}")
                    raise CommandError(
                        f"{self._name}: line {line}, column {name}: expected a "
                        f"{'whole ' if self._wanted.whole else ''}number of "
                        f"{self._wanted.spec.datatype}, got {json.dumps(cell)}"
                    )
        raise CommandError(
            f"{self._name}: lines {lines[0]} to {lines[-1]}: expected rows of one shape"
        )

    @staticmethod
    def _fits(cell: Any, kinds: str) -> bool:
        try:
            return np.array(cell).dtype.kind in kinds
        except ValueError:
            return False
