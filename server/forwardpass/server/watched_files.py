"""Tell whether files have changed since they were read."""

import os
from collections.abc import Iterable
from pathlib import Path

Signature = tuple[tuple[int, ...] | None, ...]


def signature(files: Iterable[Path]) -> Signature:
    """Return what differs once one of the files is written, replaced, or gone.

    Links are followed: a secret that Kubernetes mounts changes by its folder's link.
    """
    return tuple(map(_signature, files))


def _signature(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
