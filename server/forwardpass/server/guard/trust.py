"""Who may have written a file: general models are only for files that an operator can trust."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def written_by_anybody(path: Path, root: Path) -> str:
    """Return why any user may have written a file that lies under the folder `root`.

    Any user may where everybody on the machine may write to it, or to a folder on the way to it,
    and the file system is writable. Empty if not.
    """
    if os.name != "posix":
        return ""
    try:
        root = root.resolve()
        for entry in (*_way(path, root), *_way(path.resolve(), root)):
            if _open_to_all(entry) or _planted(entry):
                return f"everybody may write to {entry.name!r}"
    except OSError as error:
        return f"it is unknown who may write to it ({error.strerror})"
    return ""


def _way(path: Path, root: Path) -> Iterator[Path]:
    """Yield a path and the folders above it, up to the root."""
    path = path.parent.resolve() / path.name
    while path != root and path.is_relative_to(root):
        yield path
        path = path.parent
    yield root


def _open_to_all(entry: Path) -> bool:
    found = entry.lstat()
    # In a folder like /tmp everybody may add, but not replace: see `_planted`.
    shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if stat.S_ISLNK(found.st_mode) or shared or not found.st_mode & stat.S_IWOTH:
        return False
    return not _read_only(entry)


def _planted(entry: Path) -> bool:
    """Return whether an entry is another user's, in a folder that everybody may add to."""
    folder = entry.parent.stat()
    if not folder.st_mode & stat.S_IWOTH or _read_only(entry.parent):
        return False
    return entry.lstat().st_uid not in (0, os.geteuid())


def _read_only(entry: Path) -> bool:
    return bool(os.statvfs(entry).f_flag & os.ST_RDONLY)
