"""Small files that lie beside a model, read within bounds and within the repository."""

import os
from pathlib import Path


class SidecarError(Exception):
    """A file that exists and is not read."""


def read_sidecar(path: Path, root: Path, max_bytes: int) -> bytes | None:
    """Read a file under the folder `root`; None if there is none.

    Raises SidecarError, also for a file of more than `max_bytes`.
    """
    if not _lies_in(path, root):
        # Its faults are logged and returned, which would show the content of another file.
        raise SidecarError(f"{path.name} is a link that leads out of the folder that is served")
    try:
        with open(path, "rb", opener=_open) as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SidecarError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise SidecarError(f"{path.name}: expected at most {max_bytes} bytes, got more")
    return content


def _lies_in(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        # A cycle of links leads nowhere: opening it fails.
        return True


def _open(path: str, flags: int) -> int:
    # Opening a FIFO would wait for its writer, and block every model.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
