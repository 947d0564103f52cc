"""Files that are read again: whether they have changed, and whether others may read them."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

Signature = tuple[tuple[int, ...] | None, ...]


def signature(files: Iterable[Path]) -> Signature:
    """Return a value that changes when a file is written, replaced or removed.

    Follows links: Kubernetes updates a mounted secret by changing its folder's link.
    """
    return tuple(map(_signature, files))


def _signature(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def exposure(file: Path) -> str:
    """Return why a file of secrets is not secret, and what to do; empty if it is.

    As PostgreSQL has it: a file of root's may be readable by its group, since mounted secrets are.
    """
    try:
        found = os.stat(file)
    except OSError:
        return ""
    allowed = 0o740 if found.st_uid == 0 else 0o700
    mode = stat.S_IMODE(found.st_mode)
    if os.name != "posix" or not mode & 0o066 & ~allowed:
        return ""
    return f"others may read or change it (mode {mode:o}); run: chmod {mode & allowed:o} {file}"
