"""A file to which one process at a time appends."""

import os
from pathlib import Path
from typing import BinaryIO

from forwardpass.cli.errors import CommandError


def locked(path: Path) -> BinaryIO:
    """Open a file to append to, made if it does not exist; it is locked until it is closed.

    Raises CommandError if another process has locked it.
    """
    # Not at the top: Windows has no fcntl, and answers can still be printed there.
    import fcntl

    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                return file
        except BlockingIOError:
            file.close()
            raise CommandError(
                f"{path}: another run is writing it; wait until it has ended, or name another "
                "--output"
            ) from None
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether it is still there: the process before may have renamed or deleted it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
