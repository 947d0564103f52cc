"""A text file of rows: read in bounded memory, with its progress in bytes."""

import gzip
import os
from typing import IO

from forwardpass.cli.rows.chunk import Progress


class Lines:
    """The state of the readers of text: the file, and how much of it has been read."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self.file = file
        self._size = _size(file)
        self._read = 0

    def count(self, line: bytes) -> None:
        """Count a line that was read."""
        self._read += len(line)

    def progress(self) -> Progress:
        """Return the bytes read, and those of the file."""
        if isinstance(self.file, gzip.GzipFile):
            # Bytes of the file itself: the decompressed size is not known.
            return Progress(self.file.fileobj.tell(), self._size)
        return Progress(self._read, self._size)


def _size(file: IO[bytes]) -> int | None:
    """Return a file's bytes; None for a pipe or a terminal."""
    try:
        return os.fstat(file.fileno()).st_size or None if file.seekable() else None
    except OSError:
        return None
