"""Which reader reads what: by a file's ending, or by name for stdin."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.rows.chunk import Source, Wanted
from forwardpass.proto.spec import TensorSpec

STDIN = Path("-")

_ROWS_AT_A_TIME = 4096

ENDINGS = {  # of answers, too
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
    ".parquet": "parquet",
}


def row_format(path: Path, given: str | None) -> str:
    """Return the format of a file to read: as given, else by its ending; CSV for stdin.

    Raises UsageError for one that there is not.
    """
    found = given or (ENDINGS.get(path.suffix) if path != STDIN else "csv")
    if found is None or found not in ENDINGS.values():
        raise UsageError(
            f"{path.name}: expected rows in a .csv, .jsonl, .npy or .parquet file"
            f"{f', got format {given!r}' if given else ''}"
        )
    if path == STDIN and found == "parquet":
        raise UsageError("--input: expected a file, as Parquet is read from its end, got stdin")
    return found


def read_rows(path: Path, spec: TensorSpec, features: Sequence[str]) -> NDArray[Any]:
    """Return all rows of a file: (rows, columns).

    Raises what `row_format` and `open_rows` do.
    """
    wanted = Wanted(spec=spec, features=tuple(features))
    with open_rows(path, row_format(path, None), wanted) as source:
        return np.concatenate([chunk.x for chunk in source.chunks(_ROWS_AT_A_TIME)])


@contextmanager
def open_rows(path: Path, kind: str, wanted: Wanted) -> Iterator[Source]:
    """Give the rows of a file, or of stdin, in one of the formats while the block runs.

    Raises CommandError for a file that is not of the format or lacks a column.
    """
    # Each format's libraries are imported where it is read.
    if kind == "parquet":
        try:
            from forwardpass.cli.rows.parquet_rows import ParquetRows
        except ModuleNotFoundError as error:
            if error.name != "pyarrow":
                raise
            raise CommandError(
                f"{path}: Parquet needs pyarrow, which is not installed; "
                "run: pip install 'forwardpass[data]'"
            ) from error
        with closing(ParquetRows(path, wanted)) as parquet:
            yield parquet
        return
    name = "stdin" if path == STDIN else str(path)
    file = sys.stdin.buffer if path == STDIN else path.open("rb")
    try:
        source: Source
        if kind == "npy":
            from forwardpass.cli.rows.npy_rows import NpyRows

            source = NpyRows(name, file, wanted)
        elif kind == "jsonl":
            from forwardpass.cli.rows.jsonl_rows import JsonlRows

            source = JsonlRows(name, file, wanted)
        else:
            from forwardpass.cli.rows.csv_rows import CsvRows

            source = CsvRows(name, file, wanted)
        with closing(source):
            yield source
    finally:
        if path != STDIN:
            file.close()
