"""The folder of a mirror: files of a store on disk, with their checksums, changed as wholes."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple

from forwardpass.proto.stores import Entry, Store
from forwardpass.server.repository.disk import RepositoryError

STATE_FILE = ".mirror.json"
"""What the folder has: the store, and of each file its name there and its checksum."""
_LOCK_FILE = ".lock"
_INCOMING = ".incoming"
_OURS = {STATE_FILE, _LOCK_FILE, _INCOMING}
_CHUNK_BYTES = 2**20


class Kept(NamedTuple):
    """A file of the mirror."""

    key: str
    """What the store's listing called this content: a tag or a checksum."""
    size: int
    """In bytes."""
    sha256: str


class MirrorFigures(NamedTuple):
    """The state of a mirror, for metrics."""

    reachable: bool
    """Whether the latest look at the store succeeded."""
    listed_s: float
    """When the store was listed last, in seconds since the epoch; 0: never."""
    failures: int
    """How often a look at the store has failed."""
    behind: int
    """The number of models whose files in the store could not be mirrored."""
    size: int
    """The size of the mirror, in bytes."""
    fetched: int
    """How many bytes were read from the store."""


class MirrorFolder:
    """Files of a store below a folder of this program alone.

    What is written here lies in a hidden folder on the same file system until it is whole, and is
    renamed then.
    """

    def __init__(self, path: Path, url: str) -> None:
        """Open the folder, made if it is missing, and remove from it what is not as it was written.

        Raises RepositoryError if it cannot be written, is in use, or is no mirror of this store.
        """
        self.path = path
        self._url = url
        self._numbers = count()
        self._saved = ""
        self.coming: dict[str, Kept] = {}
        """What was fetched and not placed, by path."""
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_ours()
            self._lock = _locked(path)
            try:
                (path / _INCOMING).mkdir(exist_ok=True)
                self._files = self._read()
                self._clean()
                self.save()
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise RepositoryError(
                f"{path}: the mirror of {url} cannot be kept here: "
                f"{(error.strerror or str(error)).lower()}; name a folder that this user may write "
                "to (--mirror)"
            ) from error

    @property
    def files(self) -> Mapping[str, Kept]:
        """The files, by their path in the store."""
        return self._files

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(kept.size for kept in list(self._files.values()))

    def fetch(self, store: Store, entry: Entry, max_bytes: int | None) -> bool:
        """Read a file of the store into the hidden folder; False if the bytes are those here.

        max_bytes: see `Store.fetch`. Raises what that raises.
        """
        staged = self._staged(entry.path)
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.unlink(missing_ok=True)
        sha256 = store.fetch(entry, staged, max_bytes=max_bytes)
        fresh = Kept(key_of(entry), staged.stat().st_size, sha256)
        kept = self._files.get(entry.path)
        if kept is not None and kept.sha256 == sha256:
            # Written anew in other parts, for instance: nothing changes for the server.
            staged.unlink()
            self._files[entry.path] = fresh
            return False
        self.coming[entry.path] = fresh
        return True

    def place(self, paths: Iterable[str], folder: str = "") -> None:
        """Rename files that were fetched to their places: the last one last.

        folder: The path of a folder that has them all; if it is new, it appears at once.
        """
        paths = list(paths)
        target = self.path / folder
        if folder and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._staged(folder).rename(target)
        else:
            for path in paths:
                (self.path / path).parent.mkdir(parents=True, exist_ok=True)
                self._staged(path).replace(self.path / path)
        for path in paths:
            self._files[path] = self.coming.pop(path)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it, at once."""
        gone = self._staged(f".gone.{next(self._numbers)}")
        (self.path / path).rename(gone)
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink()
        for each in list(self._files):
            if each == path or each.startswith(f"{path}/"):
                del self._files[each]

    def read(self, path: str, *, staged: bool) -> bytes:
        """Read a file, as it is here or as it was fetched."""
        return (self._staged(path) if staged else self.path / path).read_bytes()

    def drop_incoming(self) -> None:
        """Remove what was fetched and not placed."""
        self.coming.clear()
        # Not the folder itself: the server looks at all models when the one around it changes.
        for entry in (self.path / _INCOMING).iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def save(self) -> None:
        """Write down what is here, for the next start, if it has changed."""
        files = {path: list(kept) for path, kept in self._files.items()}
        state = json.dumps({"store": self._url, "files": files})
        if state != self._saved:
            fresh = self.path / _INCOMING / STATE_FILE
            fresh.write_text(state)
            fresh.replace(self.path / STATE_FILE)
            self._saved = state

    def close(self) -> None:
        """Let another program have the folder."""
        self._lock.close()

    def _staged(self, path: str) -> Path:
        return self.path / _INCOMING / path

    def _check_ours(self) -> None:
        """Raise RepositoryError for a folder with other things, which would be removed."""
        if (self.path / STATE_FILE).exists():
            return
        if others := {entry.name for entry in self.path.iterdir()} - _OURS:
            raise RepositoryError(
                f"{self.path}: expected an empty folder for the mirror of {self._url}, found "
                f"{sorted(others)[0]!r}; name another (--mirror)"
            )

    def _read(self) -> dict[str, Kept]:
        """Return the files that are here with the bytes that were written."""
        try:
            state = json.loads((self.path / STATE_FILE).read_text())
            store, files = state["store"], state["files"].items()
            known = {path: Kept(*values) for path, values in files}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            # The first start, or a disk that lost the end of a file: all is fetched again.
            return {}
        if store != self._url:
            raise RepositoryError(
                f"{self.path}: expected the mirror of {self._url}, found that of {store}; name "
                "another folder (--mirror), or remove this one"
            )
        return {path: kept for path, kept in known.items() if self._is_whole(path, kept)}

    def _is_whole(self, path: str, kept: Kept) -> bool:
        try:
            return _sha256(self.path / path) == kept.sha256
        except OSError:
            return False

    def _clean(self) -> None:
        self.drop_incoming()
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder) / name
                path = file.relative_to(self.path).as_posix()
                if path not in self._files and path not in _OURS:
                    file.unlink()


def usual_folder(url: str) -> Path:
    """Return where a store is mirrored unless told: in the user's cache, which outlives a start.

    Raises RuntimeError if the user has no home.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "forwardpass", "mirrors", hashlib.sha256(url.encode()).hexdigest()[:16])


def key_of(entry: Entry) -> str:
    """Return what a listing calls the content of a file: two of a file that differ are other."""
    return entry.tag or entry.sha256 or f"{entry.size} bytes"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locked(path: Path) -> IO[bytes]:
    """Return a file whose lock ends with this process; raises RepositoryError."""
    file = (path / _LOCK_FILE).open("wb")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except BlockingIOError as error:
        file.close()
        raise RepositoryError(
            f"{path}: another server keeps its mirror here; name another folder (--mirror)"
        ) from error
    return file
