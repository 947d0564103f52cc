"""The bytes of a model, read once: its file, and the data that it keeps in other files.

What was checked is what is tried and what is loaded: a copy in memory that nobody changes, since
a file may be another one, or shorter, between two looks.
"""

import mmap
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from forwardpass.server.guard.errors import GuardError, NoRoomError
from forwardpass.server.process.memory import room

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# Opening a FIFO would wait for its writer, and a link could be put in place after the check.
_READ_CAREFULLY = _READ | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""In a location, onnxruntime's mark for an offset that is an address of its own memory."""
_PIECE = 2**20
"""Bytes that are copied at once."""
_KEPT = 2**25
"""glibc keeps what is smaller in its heaps (the largest M_MMAP_THRESHOLD that it takes itself)."""
_MORE, _LISTS, _FOLDED, _LOAD_SPARE = 1.1, 3, 2, 2**24
"""See `to_load`."""


class ModelBytes:
    """The bytes of a model in memory, as a file that has no name and that nobody can change."""

    def __init__(self, fd: int | None = None) -> None:
        """Prepare to write; fd: a descriptor of some that are written and sealed, to be closed."""
        self.fd = -1
        """Descriptor of the file; -1 where there is none any more."""
        self._mapped: mmap.mmap | bytes = b""
        self._file: tempfile._TemporaryFileWrapper[bytes] | None = None
        if fd is not None:
            self.fd = fd
            self._map()
        elif hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed in close
            self.fd = self._file.fileno()

    def write(self, content: bytes | memoryview) -> None:
        """Add to the end."""
        left = memoryview(content)
        while left:
            left = left[os.write(self.fd, left) :]

    def seal(self) -> Self:
        """Forbid any further change, and make them readable."""
        if self._file is None:
            # Not on Windows.
            import fcntl

            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self._map()
        return self

    def _map(self) -> None:
        if not os.fstat(self.fd).st_size:
            return
        if self._file is None:
            # Not shared: older kernels refuse that where writing is sealed, and it costs no copy.
            self._mapped = mmap.mmap(self.fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        else:
            self._mapped = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)

    @property
    def view(self) -> memoryview:
        """All of them, without a copy."""
        return memoryview(self._mapped)

    @property
    def path(self) -> Path:
        """Where this process can open them by name."""
        return Path(f"/proc/self/fd/{self.fd}" if self._file is None else self._file.name)

    def __len__(self) -> int:
        return len(self._mapped)

    def close(self) -> None:
        """Give the memory back, once no view of it is left."""
        self._mapped = b""
        if self.fd >= 0:
            if self._file is None:
                os.close(self.fd)
            else:
                self._file.close()
            self.fd = -1

    __del__ = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_model(path: Path, root: Path | None, max_bytes: int) -> ModelBytes:
    """Return the bytes of a model file that lies under `root` once its links are followed.

    root: None for a file that the operator named, which may lie anywhere.
    Raises GuardError.
    """
    part = f"file {path.name!r}"
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _unreadable(part, error) from error
    if root is not None and not target.is_relative_to(root.resolve()):
        raise GuardError(
            part,
            expected="a file inside the folder that is served",
            got="a link that leads out of it",
            fix="copy the file into the folder",
        )
    with _opened(part, target, root) as fd:
        size = os.fstat(fd).st_size
        if size > max_bytes:
            raise GuardError(
                part,
                expected=f"at most {max_bytes} bytes",
                got=str(size),
                fix="have the operator raise --max-model-bytes",
            )
        check_fits(part, size, size + to_load(size))
        try:
            content = ModelBytes()
            _copy(part, fd, 0, size, content)
            return content.seal()
        except OSError as error:
            raise _unreadable(part, error) from error


def to_load(size: int, *, constants: Iterable[int] = (), lists: int = 0, folded: int = 0) -> int:
    """Return how much memory it takes at most to load a model of which there is a copy.

    What onnxruntime reads becomes the model. Meanwhile the largest constant is there twice, and
    those that the C library keeps in its heaps. tests/server/repository/test_memory.py measures it.

    size: Bytes of the file. constants: Bytes of each constant in it. lists: Memory of what is not
    values of tensors, as the numbers of a forest. folded: Memory of constants that are computed
    from others.
    """
    sizes = list(constants)
    twice = max(sizes, default=0) + sum(each for each in sizes if each < _KEPT)
    return size + int(twice * _MORE) + lists * _LISTS + folded * _FOLDED + _LOAD_SPARE


def check_fits(part: str, size: int, need: int) -> None:
    """Raise NoRoomError if a model of so many bytes needs more memory than is left."""
    left = room()
    if left is not None and need > left.free:
        raise NoRoomError(
            part,
            expected=f"a model that fits into memory, of which {left}",
            got=f"one of {size / 2**20:.0f} MiB, which takes up to {need / 2**20:.0f} MiB more "
            "while it is loaded",
            fix="raise the limit, serve fewer models from here, or quantize it",
        )


class Outside(NamedTuple):
    """Where the data of a tensor lie that are not in its file."""

    location: str
    offset: int
    length: int


class ExternalData:
    """The other files of a model's folder, as far as its tensors refer to them."""

    def __init__(self, folder: Path, max_bytes: int, root: Path | None = None) -> None:
        """Prepare to read at most `max_bytes` in all.

        root: The folder that is served, which has to have every name of the files.
        """
        self._folder = folder
        self._root = folder if root is None else root
        self._left = max_bytes

    def copy(self, part: str, place: Outside, to: ModelBytes) -> None:
        """Add bytes of a regular file inside the folder.

        Raises GuardError, before anything is read, if the location leads anywhere else.
        """
        path = self.path(part, place.location)
        self._left -= place.length
        if self._left < 0:
            raise GuardError(
                part,
                expected="no more external data than a model may have",
                got=f"{-self._left} bytes too many",
                fix="have the operator raise --max-model-bytes",
            )
        part = f"{part}, external data {place.location[:100]!r}"
        with _opened(part, path, self._root) as fd:
            _copy(part, fd, place.offset, place.length, to)

    def path(self, part: str, location: str) -> Path:
        """Return where a location lies; raises GuardError if that is not inside the folder."""
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


@contextmanager
def _opened(part: str, path: Path, root: Path | None) -> Iterator[int]:
    """Open a regular file all of whose names lie under `root`."""
    try:
        fd = os.open(path, _READ_CAREFULLY)
    except OSError as error:
        raise _unreadable(part, error) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise GuardError(
                part,
                expected="a regular file",
                got="a folder, a pipe or a device",
                fix="put the model's own file there",
            )
        if root is not None and found.st_nlink > 1 and _names(root, found) < found.st_nlink:
            raise GuardError(
                part,
                expected="a file inside the folder that is served",
                got="a hard link, by which it is a file outside as well",
                fix="copy the file into the folder (cp, not ln or cp -l)",
            )
        yield fd
    finally:
        os.close(fd)


def _names(root: Path, found: os.stat_result) -> int:
    """Count the names of a file under a folder."""
    names = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with suppress(OSError):
                other = os.lstat(os.path.join(folder, name))
                names += (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino)
    return names


def _copy(part: str, fd: int, offset: int, length: int, to: ModelBytes) -> None:
    """Copy a part of a file; nothing is allocated beyond its true size."""
    size = os.fstat(fd).st_size
    if offset + length > size:
        raise GuardError(
            part,
            expected=f"{length} bytes from byte {offset} on",
            got=f"a file of {size} bytes",
            fix="copy the file again, whole",
        )
    done = 0
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        while done < length and (piece := os.read(fd, min(_PIECE, length - done))):
            to.write(piece)
            done += len(piece)
    except OSError as error:
        raise _unreadable(part, error) from error
    if done != length:
        raise GuardError(
            part,
            expected=f"{length} bytes",
            got=f"{done}: it became shorter while it was read",
            fix="replace files as a whole, by renaming them into place",
        )


def _unreadable(part: str, error: Exception) -> GuardError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else "a loop of links"
    return GuardError(part, expected="a file that can be read", got=why, fix="check what is there")
