"""Cells of text -> numbers, read strictly: only what every program reads as a number is one."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

MISSING = ("",)
"""Texts for a missing value, besides those that the caller names."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NAMED = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)


class CellError(ValueError):
    """A cell that is not a number; the text says what was expected, and what came."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the cells of a file are read."""

    whole: bool = False
    """Whether the input takes only whole numbers."""
    decimal: str = "."
    na: tuple[str, ...] = ()
    """Texts for a missing value, besides an empty one."""
    missing: str = "refuse"
    """How missing values are treated: `refuse`, or `nan`."""

    def row(self, cells: Sequence[str]) -> list[float]:
        """Return the numbers of a row; those that overflow in float64 are infinite.

        Raises CellError, which does not name the cell.
        """
        text = "".join(cells)
        # Python's float also accepts underscores and the digits of every script.
        if self.decimal == "." and "_" not in text and text.isascii():
            with suppress(ValueError):
                return list(map(int if self.whole else float, cells))
        return list(map(self.cell, cells))

    def is_missing(self, cell: str) -> bool:
        """Whether a cell is empty, or a text for a missing value."""
        text = cell.strip()
        return not text or text in self.na

    def cell(self, cell: str) -> float:
        """Return the number of a cell."""
        text = cell.strip()
        if self.is_missing(cell):
            return self._missing(cell)
        if self.decimal != ".":
            if "." in text:
                raise CellError(
                    f"expected a number with {self.decimal!r} as decimal mark, got {cell!r}; pass "
                    "--decimal . if it is a point"
                )
            text = text.replace(self.decimal, ".")
        if self.whole:
            if _WHOLE.fullmatch(text):
                return int(text)
            raise CellError(f"expected a whole number, got {cell!r}")
        if _NAMED.fullmatch(text):
            return float(text)
        if not _NUMBER.fullmatch(text):
            hint = "; pass --decimal , if it is a decimal mark" if _comma(text) else ""
            raise CellError(f"expected a number, got {cell!r}{hint}")
        number = float(text)
        if math.isinf(number):
            raise CellError(f"expected a number of magnitude up to 1.8e308, got {cell!r}")
        return number

    def _missing(self, cell: str) -> float:
        if self.missing == "nan" and not self.whole:
            return math.nan
        raise CellError(missing_text(repr(cell), whole=self.whole))


def missing_text(got: str, *, whole: bool) -> str:
    """Return the error text for a missing value."""
    if whole:
        return f"expected a whole number, got {got}; fill it in"
    return f"expected a number, got {got}; fill it in, or pass --missing nan"


def _comma(text: str) -> bool:
    return text.count(",") == 1 and _NUMBER.fullmatch(text.replace(",", ".")) is not None
