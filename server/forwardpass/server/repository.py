"""Models and versions on disk: what a path offers to serve."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODEL_FILE = "model.onnx"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")

_ABSENT = (FileNotFoundError, NotADirectoryError)

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Of each file of a version: its name, size in bytes, mtime in ns, inode. Files that are written
anew differ in one of them, without being read."""


class RepositoryError(Exception):
    """A path that offers no model."""


class EmptyRepositoryError(RepositoryError):
    """A path that is there and holds nothing of the kind."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: expected a .onnx file, a directory of them, or NAME/VERSION/{MODEL_FILE}; "
            "found none"
        )


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """One version of one model on disk."""

    name: str
    version: int
    path: Path
    fingerprint: Fingerprint = field(default=(), compare=False)
    """Tells one content from the next; not part of what the file is."""
    fault: str = field(default="", compare=False)
    """Why it cannot be loaded whatever its content; empty if nothing stands against it."""

    def same_as(self, other: "ModelFile | None") -> bool:
        """Whether it is the same version, at the same place, with the same content."""
        if other is None or self != other:
            return False
        return (self.fingerprint, self.fault) == (other.fingerprint, other.fault)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that was looked into, as it was then."""

    path: Path
    device: int
    inode: int
    changed_ns: int
    """When an entry last came or went: a new folder may get the inode of one just removed."""


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a path offers at one moment."""

    files: Mapping[str, Mapping[int, ModelFile]]
    """By name, by version."""
    folders: frozenset[Folder]
    """A change of what is offered shows in one of these."""
    unreadable: Mapping[str, str]
    """Names whose folder cannot be read -> why."""


def find_models(path: Path) -> list[ModelFile]:
    """List what can be served at a path, sorted by name and version.

    The path is a `.onnx` file (its stem is the name, its version 1), a directory of such
    files, a repository `NAME/VERSION/model.onnx`, or a directory that holds both.

    Raises RepositoryError if the path does not exist, holds nothing of the kind or what cannot
    be read, or if two files are the same version of a model.
    """
    contents = scan(path)
    for name, why in contents.unreadable.items():
        raise RepositoryError(f"{path}: {name!r} cannot be read: {why}")
    found = [file for files in contents.files.values() for file in files.values()]
    for file in found:
        if file.fault:
            raise RepositoryError(f"model {file.name!r} version {file.version}: {file.fault}")
    if not found:
        raise EmptyRepositoryError(path)
    return sorted(found)


def scan(path: Path) -> Contents:
    """Look at what a path offers, which may be nothing; what is at fault is told, not raised.

    Raises RepositoryError if the path itself does not exist or cannot be read.
    """
    try:
        if path.is_file():
            root, entries = path.parent, [path]
        else:
            # A dot in front marks what is still being written, or is not meant to be seen.
            root, entries = path, [e for e in path.iterdir() if not e.name.startswith(".")]
        folders = {_folder(root)}
    except OSError as error:
        raise RepositoryError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    files: dict[str, dict[int, ModelFile]] = {}
    unreadable: dict[str, str] = {}
    for entry in sorted(entries):
        try:
            # No message could carry the name otherwise.
            entry.name.encode()
            for file in _offered(entry, folders):
                versions = files.setdefault(file.name, {})
                twin = versions.get(file.version)
                versions[file.version] = file if twin is None else _conflict(twin, file)
        except _ABSENT:
            # It went away while we looked.
            continue
        except UnicodeEncodeError:
            unreadable[entry.name] = "its name is not UTF-8"
        except OSError as error:
            unreadable[entry.name] = error.strerror or str(error)
    return Contents(files, frozenset(folders), unreadable)


def is_as_found(file: ModelFile) -> bool:
    """Tell whether a model file is still what a scan found."""
    try:
        return _part(file.path, file.path.stat()) in file.fingerprint
    except OSError:
        return False


def _offered(entry: Path, folders: set[Folder]) -> Iterator[ModelFile]:
    """List the versions in a model's folder, or the model file that the entry is."""
    if not stat.S_ISDIR(entry.stat().st_mode):
        if entry.suffix == ".onnx" and (fingerprint := _fingerprint([entry])):
            yield ModelFile(entry.stem, 1, entry, fingerprint)
        return
    folders.add(_folder(entry))
    for version in entry.iterdir():
        if _VERSION.fullmatch(version.name):
            yield from _version(entry.name, version, folders)


def _version(name: str, folder: Path, folders: set[Folder]) -> Iterator[ModelFile]:
    path, number = folder / MODEL_FILE, int(folder.name)
    try:
        folders.add(_folder(folder))
        fingerprint = _fingerprint(folder.iterdir())
    except _ABSENT:
        return
    except OSError as error:
        yield ModelFile(name, number, path, fault=f"cannot be read: {error.strerror}")
    else:
        if any(part[0] == MODEL_FILE for part in fingerprint):
            yield ModelFile(name, number, path, fingerprint)


def _fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """Describe the regular files among some paths."""
    parts = []
    for path in paths:
        try:
            info = path.stat()
        except _ABSENT:
            continue
        except OSError:
            if path.name == MODEL_FILE:
                raise
            continue
        if stat.S_ISREG(info.st_mode):
            parts.append(_part(path, info))
    return tuple(sorted(parts))


def _part(path: Path, info: os.stat_result) -> tuple[str, int, int, int]:
    return (path.name, info.st_size, info.st_mtime_ns, info.st_ino)


def _conflict(one: ModelFile, other: ModelFile) -> ModelFile:
    return ModelFile(
        one.name,
        one.version,
        one.path,
        one.fingerprint + other.fingerprint,
        fault=f"both {one.name}.onnx and {one.name}/{one.version}/{MODEL_FILE} are it; keep one",
    )


def _folder(path: Path) -> Folder:
    info = os.stat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return Folder(path, info.st_dev, info.st_ino, info.st_ctime_ns)
