"""The separator of columns and the decimal mark of a CSV file: as given, or recognized.

Spreadsheets write semicolons and decimal commas in some languages.
"""

import csv
from collections.abc import Sequence
from typing import NamedTuple

from forwardpass.cli.rows.numbers import CellError, Reading

_SEPARATORS = (",", ";", "\t")
_NAMES = {"\t": "a tab", " ": "a space"}


class Dialect(NamedTuple):
    """The separator and the decimal mark of a file."""

    sep: str = ","
    decimal: str = "."

    def __str__(self) -> str:
        mark = "a decimal comma" if self.decimal == "," else f"{self.decimal!r} as decimal mark"
        return f"{_NAMES.get(self.sep, repr(self.sep))} between columns, {mark}"


def recognized(lines: Sequence[str], features: Sequence[str], sep: str | None) -> Dialect:
    """Return the dialect of the first lines of a file.

    sep: the separator of columns; None to recognize it.
    """
    first = next((line for line in lines if line.strip()), "")
    sep = _separator(first, features) if sep is None else sep
    # Only if commas cannot separate columns, a comma between digits is surely a decimal mark.
    cells = [cell for line in lines for cell in _cells(line, sep)] if sep == ";" else []
    return Dialect(sep, "," if any(map(_by_comma_alone, cells)) else ".")


def _separator(first: str, features: Sequence[str]) -> str:
    """Return the separator of a file's first line, a comma unless only another character fits."""
    if features:
        for sep in _SEPARATORS:
            if set(features) <= _names(first, sep):
                return sep
    plain = _unquoted(first)
    others = [sep for sep in _SEPARATORS[1:] if sep in plain]
    if len(others) == 1 and ("," not in plain or _is_row(first, others[0])):
        return others[0]
    return ","


def _is_row(line: str, sep: str) -> bool:
    """Whether a line is of numbers with decimal commas."""
    return all(_is_number(cell.replace(",", ".")) for cell in _cells(line, sep))


def _names(line: str, sep: str) -> set[str]:
    return {cell.strip() for cell in _cells(line, sep)}


def _cells(line: str, sep: str) -> list[str]:
    return next(csv.reader([line], delimiter=sep), [])


def _unquoted(line: str) -> str:
    return "".join(line.split('"')[::2])


def _by_comma_alone(cell: str) -> bool:
    return "," in cell and "." not in cell and _is_number(cell.replace(",", "."))


def _is_number(cell: str) -> bool:
    try:
        Reading().cell(cell)
    except CellError:
        return False
    return True
