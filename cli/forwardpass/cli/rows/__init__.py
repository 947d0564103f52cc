"""The rows of a file or of stdin, a bounded number at a time, in the form of a model's input."""

from forwardpass.cli.rows.chunk import Chunk, Source, Wanted, check_range
from forwardpass.cli.rows.formats import STDIN, open_rows, read_rows, row_format

__all__ = [
    "STDIN",
    "Chunk",
    "Source",
    "Wanted",
    "check_range",
    "open_rows",
    "read_rows",
    "row_format",
]
