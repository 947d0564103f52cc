"""The rows of a file or of stdin, a bounded number at a time, in the form of a model's input."""

from forwardpass.cli.rows.chunk import Chunk, Source, Typed, Wanted, check_range
from forwardpass.cli.rows.folder import RowsFile, files_below, rows_files
from forwardpass.cli.rows.formats import STDIN, open_rows, read_rows, row_format

__all__ = [
    "STDIN",
    "Chunk",
    "RowsFile",
    "Source",
    "Typed",
    "Wanted",
    "check_range",
    "files_below",
    "open_rows",
    "read_rows",
    "row_format",
    "rows_files",
]
