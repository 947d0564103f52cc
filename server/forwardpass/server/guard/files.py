"""The bytes of a model: its file, and the data that it keeps in other files of its folder."""

import os
import stat
from pathlib import Path, PurePosixPath

from forwardpass.server.guard.errors import GuardError

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# A FIFO would wait for its writer, and a link could be put in place after the check.
_READ_CAREFULLY = _READ | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""In a location, onnxruntime's mark for an offset that is an address of its own memory."""


def read_model(path: Path, root: Path, max_bytes: int) -> bytes:
    """Return the bytes of a model file that lies under `root` once its links are followed.

    Raises GuardError.
    """
    part = f"file {path.name!r}"
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _unreadable(part, error) from error
    if not target.is_relative_to(root.resolve()):
        raise GuardError(
            part,
            expected="a file inside the folder that is served",
            got="a link that leads out of it",
            fix="copy the file into the folder",
        )
    return _read(part, target, 0, None, max_bytes)


class ExternalData:
    """The other files of a model's folder, as far as its tensors refer to them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Prepare to read at most `max_bytes` in all."""
        self._folder = folder
        self._left = max_bytes

    def read(self, part: str, location: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a regular file inside the folder.

        Raises GuardError, before anything is read, if the location leads anywhere else.
        """
        path = self._path(part, location)
        self._left -= length
        if self._left < 0:
            raise GuardError(
                part,
                expected="no more external data than a model may have",
                got=f"{-self._left} bytes above that",
                fix="have the operator raise --max-model-bytes",
            )
        return _read(f"{part}, external data {location[:100]!r}", path, offset, length, None)

    def _path(self, part: str, location: str) -> Path:
        relative = PurePosixPath(location)
        if (
            not relative.parts
            or relative.is_absolute()
            or ".." in relative.parts
            or _IN_MEMORY in location
            or "\0" in location
            or "\\" in location
        ):
            raise GuardError(
                part,
                expected="external data in a file beside the model",
                got=f"location {location[:100]!r}",
                fix="export the model with its data in its own folder, or inside the file",
            )
        path = self._folder
        for name in relative.parts:
            path = path / name
            # Not Path.is_symlink, which raises for a name that is too long.
            if os.path.islink(path):
                raise GuardError(
                    part,
                    expected="external data in a regular file",
                    got=f"location {location[:100]!r}, where {name!r} is a link",
                    fix="copy the data into the model's folder",
                )
        return path


def _read(part: str, path: Path, offset: int, length: int | None, max_bytes: int | None) -> bytes:
    """Read a part of a regular file, or all of it; nothing is allocated beyond its true size."""
    try:
        with open(os.open(path, _READ_CAREFULLY), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise GuardError(
                    part,
                    expected="a regular file",
                    got="a folder, a pipe or a device",
                    fix="put the model's own file there",
                )
            if max_bytes is not None and found.st_size > max_bytes:
                raise GuardError(
                    part,
                    expected=f"at most {max_bytes} bytes",
                    got=str(found.st_size),
                    fix="have the operator raise --max-model-bytes",
                )
            wanted = found.st_size - offset if length is None else length
            if offset + wanted > found.st_size:
                raise GuardError(
                    part,
                    expected=f"{wanted} bytes from byte {offset} on",
                    got=f"a file of {found.st_size} bytes",
                    fix="copy the file again, whole",
                )
            file.seek(offset)
            content = file.read(wanted)
    except OSError as error:
        raise _unreadable(part, error) from error
    if len(content) != wanted:
        raise GuardError(
            part,
            expected=f"{wanted} bytes",
            got=f"{len(content)}: it became shorter while it was read",
            fix="replace files as a whole, by renaming them into place",
        )
    return content


def _unreadable(part: str, error: Exception) -> GuardError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else "a loop of links"
    return GuardError(part, expected="a file that can be read", got=why, fix="check what is there")
