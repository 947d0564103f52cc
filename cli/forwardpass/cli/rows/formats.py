"""The reader of a file: by its ending, or by a format's name for stdin."""

import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

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


_ROW_ENDINGS = ENDINGS | {".tsv": "csv"}
_PACKED = ".gz"


def row_format(path: Path, given: str | None) -> str:
    """Return the format of a file to read: the given one, else by its ending; CSV for stdin.

    Raises UsageError for an unknown format.
    """
    ending = Path(path.stem).suffix if path.suffix == _PACKED else path.suffix
    found = given or (_ROW_ENDINGS.get(ending) if path != STDIN else "csv")
    if found == "parquet" and path.suffix == _PACKED:
        raise UsageError(f"{path.name}: Parquet is compressed already; decompress the file")
    if found is None or found not in ENDINGS.values():
        raise UsageError(
            f"{path.name}: expected rows in a .csv, .tsv, .jsonl, .npy or .parquet file"
            f"{f', got format {given!r}' if given else ''}"
        )
    if path == STDIN and found == "parquet":
        raise UsageError("--input: expected a file, as Parquet is read from its end, got stdin")
    return found


def read_rows(path: Path, spec: TensorSpec, features: Sequence[str]) -> NDArray[Any]:
    """Return all rows of a file: (rows, columns).

    Raises the errors of `row_format` and `open_rows`.
    """
    wanted = Wanted(spec=spec, features=tuple(features))
    with open_rows(path, row_format(path, None), wanted) as source:
        return np.concatenate([chunk.x for chunk in source.chunks(_ROWS_AT_A_TIME)])


@contextmanager
def open_rows(path: Path, kind: str, wanted: Wanted) -> Iterator[Source]:
    """Yield the rows of a file, or of stdin, in one of the formats, while the block runs.

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
    if wanted.sep is None and ".tsv" in path.suffixes[-2:]:
        wanted = replace(wanted, sep="\t", decimal=wanted.decimal or ".")
    raw = sys.stdin.buffer if path == STDIN else path.open("rb")
    # Closed with the file that it decompresses.
    packed = path.suffix == _PACKED
    file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
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
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CommandError(f"{name}: not a whole gzip file ({error})") from error
    finally:
        if path != STDIN:
            raw.close()
