"""The formats of answers: tables to bytes that can be appended one after another."""

import csv
import json
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy

from forwardpass.cli.answers.table import LabelsOfRows, Table, plain
from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.rows.formats import ENDINGS

STDOUT = Path("-")

NO_LABEL_HOLDS = "(none)"

_OF_STDOUT = ("csv", "jsonl")


def answer_format(path: Path, given: str | None) -> str:
    """Return the format of a file to write: the given one, else by its ending; CSV for stdout.

    Raises UsageError for an unknown format, and for a file that cannot be made there.
    """
    found = given or (ENDINGS.get(path.suffix) if path != STDOUT else "csv")
    if found is None or found not in ENDINGS.values():
        raise UsageError(
            f"--output: expected a .csv, .jsonl, .npy or .parquet file, got {given or path.name!r}"
            "; name its format with --output-format"
        )
    if path == STDOUT and found not in _OF_STDOUT:
        raise UsageError(f"--output: expected a file for {found}, got stdout; name one")
    if not path.parent.is_dir():
        raise UsageError(f"--output: there is no directory {str(path.parent)!r}; make it first")
    return found


class Encoder(Protocol):
    """Writes tables as bytes, which in their order make the file, apart from `finish`."""

    def encode(self, table: Table, *, first: bool) -> bytes:
        """Return a table's bytes; raises CommandError for a table that the format cannot hold."""

    def finish(self, part: Path, rows: int, to: Path) -> None:
        """Make the file from the bytes in `part`, and put it in its place atomically."""


def encoder(kind: str, written: Path | None = None) -> Encoder:
    """Return the encoder of a format; written: the file that an earlier one has begun, if any.

    Raises CommandError for a format whose library is not installed.
    """
    if kind == "parquet":
        try:
            from forwardpass.cli.answers.parquet import ParquetAnswers
        except ModuleNotFoundError as error:
            if error.name != "pyarrow":
                raise
            raise CommandError(
                "--output: Parquet needs pyarrow, which is not installed; "
                "run: pip install 'forwardpass[data]'"
            ) from error
        return ParquetAnswers(written)
    encoders: dict[str, type[Encoder]] = {
        "csv": CsvAnswers,
        "jsonl": JsonlAnswers,
        "npy": NpyAnswers,
    }
    return encoders[kind]()


class CsvAnswers:
    """CSV with a header; several labels of a row are joined by semicolons.

    An empty field means no answer, so a row for which no label applies has `(none)`.
    """

    def encode(self, table: Table, *, first: bool) -> bytes:
        """Return the lines of a table."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if first:
            writer.writerow(table)
        writer.writerows(zip(*map(_cells, table.values()), strict=True))
        return text.getvalue().encode()

    def finish(self, part: Path, rows: int, to: Path) -> None:
        """Rename it."""
        del rows
        part.replace(to)


def _cells(column: Any) -> Sequence[Any]:
    if isinstance(column, LabelsOfRows):
        return [None if labels is None else ";".join(labels) or NO_LABEL_HOLDS for labels in column]
    values = plain(column)
    if len(values) and isinstance(values[0], list):
        return [";".join(map(str, value)) for value in values]
    return values


class JsonlAnswers:
    """A JSON object in each line; numbers that are not finite are null."""

    def encode(self, table: Table, *, first: bool) -> bytes:
        """Return the lines of a table."""
        del first
        columns = [_finite(plain(column)) for column in table.values()]
        names = list(table)
        # default: dates and similar values that were kept from a Parquet file.
        return b"".join(
            json.dumps(dict(zip(names, row, strict=True)), default=str, ensure_ascii=False).encode()
            + b"\n"
            for row in zip(*columns, strict=True)
        )

    def finish(self, part: Path, rows: int, to: Path) -> None:
        """Rename it."""
        del rows
        part.replace(to)


def _finite(values: Sequence[Any]) -> Sequence[Any]:
    # JSON has no NaN and no infinity.
    return [
        None if isinstance(value, float) and not math.isfinite(value) else value for value in values
    ]


_NPY_HEADER_BYTES = 128


class NpyAnswers:
    """The numbers of one output, after a header of fixed length that is written at the end."""

    def encode(self, table: Table, *, first: bool) -> bytes:
        """Return the rows of a table, the first ones after room for the header."""
        columns = [column for column in table.values() if isinstance(column, np.ndarray)]
        if len(columns) != len(table) or len({column.dtype for column in columns}) != 1:
            raise CommandError(
                f"--output: a .npy file holds numbers of one kind, got {', '.join(table)}; "
                "write .csv, .jsonl or .parquet"
            )
        array = np.stack(columns, axis=1)
        header = _npy_header(array, 0) if first else b""
        return header + array.tobytes()

    def finish(self, part: Path, rows: int, to: Path) -> None:
        """Write the number of rows into the header, and rename the file."""
        with part.open("r+b") as file:
            npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file)
            file.seek(0)
            file.write(_npy_header(np.empty((0, *shape[1:]), dtype), rows))
        part.replace(to)


def _npy_header(array: np.ndarray[Any, Any], rows: int) -> bytes:
    fields = {
        "descr": npy.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": (rows, *array.shape[1:]),
    }
    text = repr(fields).encode()
    start = npy.magic(1, 0) + (_NPY_HEADER_BYTES - 10).to_bytes(2, "little") + text
    return start.ljust(_NPY_HEADER_BYTES - 1) + b"\n"
