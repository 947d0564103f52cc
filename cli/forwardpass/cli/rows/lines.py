"""A text file of rows: read in bounded memory, told in bytes how far."""

import os
from typing import IO

from forwardpass.cli.rows.chunk import Progress


class Lines:
    """What the readers of text share: the file, and how far it has been read."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self.file = file
        self._size = _size(file)
        self._read = 0

    def count(self, line: bytes) -> None:
        """Note that a line was read."""
        self._read += len(line)

    def progress(self) -> Progress:
        """Return the bytes read, and those of the file."""
        return Progress(self._read, self._size)


def _size(file: IO[bytes]) -> int | None:
    """Return a file's bytes; None for a pipe or a terminal."""
    try:
        return os.fstat(file.fileno()).st_size or None if file.seekable() else None
    except OSError:
        return None
