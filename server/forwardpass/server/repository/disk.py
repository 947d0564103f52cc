"""Models and versions on disk: what a path offers to serve."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from forwardpass.proto.pickling import PicklableError
from forwardpass.server.repository.triton_config import (
    CONFIG_FILE,
    ConfigFileError,
    TritonConfig,
    read_config,
)

MODEL_FILE = "model.onnx"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")

_ABSENT = (FileNotFoundError, NotADirectoryError)

Part = tuple[str, int, int, int, int]
Fingerprint = tuple[Part, ...]
"""Of each file of a version, and of its model's configuration: its name, size in bytes, mtime in
ns, ctime in ns, inode. Files that are written anew differ in one of them, without being read: an
mtime can be set back, a ctime cannot."""


class RepositoryError(PicklableError):
    """A path that offers no model."""


class EmptyRepositoryError(RepositoryError):
    """A path that exists and holds no model."""

    def __init__(self, path: Path, fix: str = "put one there") -> None:
        super().__init__(
            f"{path}: expected a .onnx file, a directory of them, or NAME/VERSION/{MODEL_FILE}; "
            f"found none; {fix}"
        )


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """One version of one model on disk."""

    name: str
    version: int
    path: Path
    fingerprint: Fingerprint = field(default=(), compare=False)
    """The fingerprint of its content; not compared by `==`."""
    fault: str = field(default="", compare=False)
    """The reason why it cannot be loaded, whatever its content; empty if there is none."""
    config: TritonConfig | None = field(default=None, compare=False)
    """Its config.pbtxt; None without one, or with an invalid one."""

    def same_as(self, other: "ModelFile | None") -> bool:
        """Whether it is the same version, at the same place, with the same content."""
        if other is None or self != other:
            return False
        return (self.fingerprint, self.fault) == (other.fingerprint, other.fault)


class Folder(NamedTuple):
    """A folder that was listed, as it was then."""

    path: Path
    device: int
    inode: int
    changed_ns: int
    """The time of its last change in ns: a new folder may get the inode of one just removed."""


class Contents(NamedTuple):
    """All that a path offers at one moment."""

    files: Mapping[str, Mapping[int, ModelFile]]
    """The model files, by name and by version."""
    folders: frozenset[Folder]
    """The folders that were listed; any change of the models changes one of them."""
    unreadable: Mapping[str, str]
    """Names of entries that cannot be read -> the reason."""


def find_models(path: Path) -> list[ModelFile]:
    """List what can be served at a path, sorted by name and version.

    The path is a `.onnx` file (its stem is the name, its version 1), a directory of such
    files, a repository `NAME/VERSION/model.onnx`, or a directory that holds both.

    Raises RepositoryError if the path does not exist, holds none of these or one that cannot be
    read, or if two files are the same version of a model.
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
    """List what a path offers, which may be nothing; faults of models are returned, not raised.

    Raises RepositoryError if the path itself does not exist or cannot be read.
    """
    try:
        if path.is_file():
            root, entries = path.parent, [path]
        else:
            # A leading dot marks what is still being written, or is hidden.
            root, entries = path, [e for e in path.iterdir() if not e.name.startswith(".")]
        folders = {_folder(root)}
    except OSError as error:
        raise RepositoryError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    files: dict[str, dict[int, ModelFile]] = {}
    unreadable: dict[str, str] = {}
    for entry in sorted(entries):
        try:
            # A name that is not UTF-8 fits into no message.
            entry.name.encode()
            for file in _offered(entry, root, folders):
                versions = files.setdefault(file.name, {})
                twin = versions.get(file.version)
                versions[file.version] = file if twin is None else _conflict(twin, file)
        except _ABSENT:
            # It was removed meanwhile.
            continue
        except UnicodeEncodeError:
            unreadable[entry.name] = "its name is not UTF-8"
        except OSError as error:
            unreadable[entry.name] = error.strerror or str(error)
    return Contents(files, frozenset(folders), unreadable)


def is_as_found(file: ModelFile) -> bool:
    """Return whether a model file has not changed since the scan that found it."""
    try:
        return _part(file.path, file.path.stat()) in file.fingerprint
    except OSError:
        return False


def _offered(entry: Path, root: Path, folders: set[Folder]) -> Iterator[ModelFile]:
    """List the versions in a model's folder, or the model file that the entry is."""
    if not stat.S_ISDIR(entry.stat().st_mode):
        if entry.suffix == ".onnx" and (fingerprint := _fingerprint([entry])):
            yield ModelFile(entry.stem, 1, entry, fingerprint)
        return
    folders.add(_folder(entry))
    inside = list(entry.iterdir())
    is_configured = any(path.name == CONFIG_FILE for path in inside)
    configured = _Configured.of(entry, root) if is_configured else _Configured()
    for version in inside:
        if _VERSION.fullmatch(version.name):
            yield from _version(entry.name, version, folders, configured)


class _Configured(NamedTuple):
    """The configuration of a model, for all its versions."""

    config: TritonConfig | None = None
    fingerprint: Fingerprint = ()
    """The fingerprint of the configuration and of the label files that it names."""
    fault: str = ""

    @classmethod
    def of(cls, folder: Path, root: Path) -> "_Configured":
        # Taken before it is read: a change made meanwhile shows in the next scan's.
        fingerprint = _fingerprint([folder / CONFIG_FILE])
        try:
            config = read_config(folder, root)
        except ConfigFileError as error:
            return cls(None, fingerprint, str(error))
        if config is None:
            return cls()
        return cls(
            config, fingerprint + _fingerprint(folder / name for _, name in config.label_files)
        )


def _version(
    name: str, folder: Path, folders: set[Folder], configured: _Configured
) -> Iterator[ModelFile]:
    config, fault = configured.config, configured.fault
    file_name = (config.model_file if config is not None else "") or MODEL_FILE
    path, number = folder / file_name, int(folder.name)
    try:
        folders.add(_folder(folder))
        fingerprint = _fingerprint(folder.iterdir())
    except _ABSENT:
        return
    except OSError as error:
        yield ModelFile(name, number, path, fault=f"cannot be read: {error.strerror}")
        return
    if not any(part[0] == file_name for part in fingerprint):
        if config is None and not fault:
            # The folder may be for something else: nothing marks it as a model.
            return
        fault = fault or f"expected {file_name} in the folder of the version, found none"
    yield ModelFile(name, number, path, fingerprint + configured.fingerprint, fault, config)


def _fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """Return the fingerprint of the regular files among some paths."""
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


def _part(path: Path, info: os.stat_result) -> Part:
    return (path.name, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


def _conflict(one: ModelFile, other: ModelFile) -> ModelFile:
    return ModelFile(
        one.name,
        one.version,
        one.path,
        one.fingerprint + other.fingerprint,
        fault=f"found {one.name}.onnx and {one.name}/{one.version}/{MODEL_FILE}; keep one of them",
    )


def _folder(path: Path) -> Folder:
    info = os.stat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return Folder(path, info.st_dev, info.st_ino, info.st_ctime_ns)
