"""A repository in an object store: mirrored into a folder, from which the server loads.

Guard, trial, proof and swap see a repository on disk. What the store has is fetched when two
listings in a row show the same, so that what is still being written is left alone, and by the tags
of the listing, so that what was listed is what is read.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from threading import Event, Lock, Thread

from forwardpass.proto.stores import Entry, ObjectChangedError, Store, StoreError, open_store
from forwardpass.server.repository.catalog import Offer
from forwardpass.server.repository.disk import MODEL_FILE
from forwardpass.server.repository.labels import LABELS_FILE
from forwardpass.server.repository.mirror_folder import MirrorFigures, MirrorFolder, key_of
from forwardpass.server.repository.triton_config import (
    CONFIG_FILE,
    ConfigFileError,
    TritonConfig,
    parse_config,
)
from forwardpass.server.repository.version_policy import VersionPolicy

logger = logging.getLogger(__name__)

POLL_S = 30.0
"""Seconds between two listings of the store, unless set."""
SETTLE_S = 1.0
"""Seconds until a store that has changed is listed again: what is the same then is whole."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
"""Between tries of a store that fails: each is at most twice the one before."""
_MAX_SIDE_BYTES = 2**20
"""Maximum size of a file beside the versions, in bytes: none that is larger would be read."""

_VERSION = re.compile(r"[1-9][0-9]{0,17}")

_Files = Mapping[str, Entry]
"""Files of one model in the store, by path."""


class Mirror:
    """Keeps a folder in step with a store, in a thread of its own."""

    def __init__(
        self,
        url: str,
        folder: Path,
        offers: Callable[[str], Offer],
        note: Callable[[Mapping[str, str]], None],
        *,
        policy: VersionPolicy = VersionPolicy(),  # noqa: B008 - frozen
        poll_s: float | None = None,
        watch: bool = True,
        max_bytes: int | None = None,
    ) -> None:
        """Open the folder and the store; nothing is read from the store yet.

        offers: Returns what is offered of a model. note: Called with what is to be said of models
        whose files are not those of the store, by name; of all of them under "". policy: The
        versions to fetch. max_bytes: Maximum size of the mirror; None: no limit.

        Raises RepositoryError for the folder, StoreError for the store.
        """
        self._store: Store = open_store(url)
        self._folder = MirrorFolder(folder, url)
        self._offers = offers
        self._note = note
        self._policy = policy
        self._poll_s = POLL_S if poll_s is None else poll_s
        self._watch = watch
        self._max_bytes = max_bytes
        self._seen: dict[str, Mapping[str, str]] = {}
        """The files of each model when they were listed last: path -> key."""
        self._faults: dict[str, str] = {}
        """Models that could not be mirrored -> why."""
        self._since: float | None = None
        """Since when the store cannot be read, in seconds since the epoch; None: it can."""
        self._listed_s = 0.0
        self._failures = self._fetched = 0
        # One look at a time: callers may ask for one.
        self._lock = Lock()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="mirror", daemon=True)
        self._then: Callable[[], None] = lambda: None

    @property
    def figures(self) -> MirrorFigures:
        """The state of the mirror."""
        return MirrorFigures(
            reachable=self._listed_s > 0 and self._since is None,
            listed_s=self._listed_s,
            failures=self._failures,
            behind=len(self._faults),
            size=self._folder.size,
            fetched=self._fetched,
        )

    def start(self, then: Callable[[], None]) -> None:
        """Begin; `then` is called once the folder is in step, or the store cannot be read."""
        self._then = then
        self._thread.start()

    def stop(self) -> None:
        """Fetch nothing more; does not wait for what is being fetched."""
        self._stop.set()

    def join(self) -> None:
        """Wait, after `stop`, until the folder is not written any more."""
        if self._thread.is_alive():
            self._thread.join()
        self._folder.close()

    def look(self) -> None:
        """Take now what the store has, once it has stood still; what fails is logged.

        Called when files are to be read at once: by a caller's load, or SIGHUP.
        """
        if not self._look() and not self._stop.wait(SETTLE_S):
            self._look()

    def _run(self) -> None:
        failed = looks = 0
        while not self._stop.is_set():
            try:
                settled = self._look()
            except Exception:
                # Whatever the error: the models go on answering, and another look is due.
                logger.exception("looking for changes in %s failed", self._store.url)
                settled = False
            is_well = self._since is None and not self._faults
            failed = 0 if is_well else failed + 1
            looks += 1
            if settled or not is_well or looks > 1:
                self._then()
                self._then = lambda: None
                if settled and is_well and not self._watch:
                    break
            self._stop.wait(self._pause(failed, settled=settled))

    def _pause(self, failed: int, *, settled: bool) -> float:
        # Many servers must not ask at one moment, least of all when the store is back.
        if failed:
            longest = min(_FIRST_PAUSE_S * 2.0 ** min(failed - 1, 10), _LAST_PAUSE_S)
            return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        if not settled:
            return min(SETTLE_S, self._poll_s)
        return self._poll_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret

    def _look(self) -> bool:
        """List the store and take what has stood still; return whether nothing else is there."""
        with self._lock:
            try:
                listed = _models(self._store.list())
            except StoreError as error:
                self._is_away(error)
                return True
            self._is_back()
            self._listed_s = time.time()
            settled = True
            for name in sorted({*listed, *_models_of(self._folder.files), *self._seen}):
                if self._stop.is_set():
                    break
                files = listed.get(name, {})
                keys = {path: key_of(entry) for path, entry in files.items()}
                if self._seen.get(name) != keys:
                    self._seen[name] = keys
                    settled = False
                    continue
                settled &= self._take_in(name, files)
                if not files:
                    del self._seen[name]
            self._tell()
            return settled

    def _take_in(self, name: str, files: _Files) -> bool:
        """Bring a model in step; return False if it changed meanwhile."""
        before = self._faults.pop(name, None)
        try:
            self._take(name, files)
        except ObjectChangedError:
            # Between the listing and the reading: what is there now has to stand still first.
            del self._seen[name]
            return False
        except (StoreError, OSError) as error:
            self._faults[name] = str(error)
            self._failures += 1
            if before is None:
                logger.error("%r of %s is not mirrored: %s", name, self._store.url, error)
        finally:
            self._folder.drop_incoming()
            self._folder.save()
        return True

    def _take(self, name: str, files: _Files) -> None:
        if name in files:
            # A single file NAME.onnx.
            self._fetch([files[name]])
            self._folder.place(self._coming([files[name]]))
            return
        config = self._config(name, files)
        beside = {CONFIG_FILE, LABELS_FILE}
        if config is not None:
            beside.update(label_file for _, label_file in config.label_files)
        side = [files[f"{name}/{each}"] for each in sorted(beside) if f"{name}/{each}" in files]
        self._fetch([entry for entry in side if (entry.size or 0) <= _MAX_SIDE_BYTES])
        versions = _whole_versions(name, files, config)
        policy = (config.policy if config is not None else None) or self._policy
        offer = self._offers(name)
        chosen = policy.choose(versions, offer.failed)
        # What answers goes on, also if it is started again, until what replaces it does.
        kept = {*chosen, *policy.choose(versions, versions.keys() - offer.answering.keys())}
        self._remove_others(name, files, kept, beside)
        for number in chosen:
            entries = versions[number]
            self._fetch(entries)
            self._folder.place(self._coming(entries), f"{name}/{number}")
        self._folder.place(self._coming(side))

    def _config(self, name: str, files: _Files) -> TritonConfig | None:
        """Return a model's configuration in the store; None without one, or for an invalid one."""
        entry = files.get(f"{name}/{CONFIG_FILE}")
        if entry is None:
            return None
        self._fetch([entry])
        content = self._folder.read(entry.path, staged=bool(self._coming([entry])))
        try:
            return parse_config(content, name)
        except ConfigFileError:
            # The model fails with the reason when it is loaded.
            return None

    def _remove_others(
        self, name: str, files: _Files, versions: Collection[int], beside: Collection[str]
    ) -> None:
        """Remove what the store has no more, or what is served no more."""
        for path in [path for path in self._folder.files if path.split("/")[0] == name]:
            parts = path.split("/")
            if path not in self._folder.files:
                continue  # with its version
            if len(parts) > 2 and int(parts[1]) not in versions:
                self._folder.remove("/".join(parts[:2]))
            elif path not in files or (len(parts) == 2 and parts[1] not in beside):
                self._folder.remove(path)
        folder = self._folder.path / name
        if not files and folder.is_dir():
            self._folder.remove(name)

    def _fetch(self, entries: Iterable[Entry]) -> None:
        """Fetch those of some files that have changed; raises StoreError for lack of room."""
        files, coming = self._folder.files, self._folder.coming
        changed = [
            entry
            for entry in entries
            if entry.path not in coming
            and (entry.path not in files or files[entry.path].key != key_of(entry))
        ]
        room = None
        if self._max_bytes is not None:
            used = self._folder.size + sum(kept.size for kept in coming.values())
            room = self._max_bytes - used
            needed = sum(entry.size or 0 for entry in changed)
            if needed > room:
                raise StoreError(
                    f"{changed[0].path!r} and what belongs to it have {needed} bytes, where the "
                    f"mirror has {used} of at most {self._max_bytes}; raise --mirror-bytes, or "
                    "serve fewer versions (--versions)"
                )
        for entry in changed:
            if self._stop.is_set():
                raise ObjectChangedError("the server ends")
            self._folder.fetch(self._store, entry, room)
            size = coming[entry.path].size if entry.path in coming else files[entry.path].size
            self._fetched += size
            room = None if room is None else room - size

    def _coming(self, entries: Iterable[Entry]) -> list[str]:
        """Return the paths of those that were fetched and are other than here."""
        return [entry.path for entry in entries if entry.path in self._folder.coming]

    def _is_away(self, error: StoreError) -> None:
        self._failures += 1
        if self._since is None:
            self._since = time.time()
            logger.error("%s; what was mirrored goes on answering", error)
            self._tell()

    def _is_back(self) -> None:
        if self._since is not None:
            away_s = time.time() - self._since
            logger.info("%s can be read again, after %.0f s", self._store.url, away_s)
            self._since = None

    def _tell(self) -> None:
        # Callers read it: which store it is, and what it has answered, is in the log.
        notes = {
            name.removesuffix(".onnx"): "its files in the store could not be mirrored; the "
            "server's log says why"
            for name in self._faults
        }
        if self._since is not None:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._since))
            notes[""] = f"the store cannot be read since {since}; served is what it had before"
        self._note(notes)


def _models(entries: Iterable[Entry]) -> dict[str, dict[str, Entry]]:
    """Return the files that can belong to a model, by the first part of their path."""
    models: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        parts = entry.path.split("/")
        # Also what leads out of the folder, as "..".
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            continue
        is_file = len(parts) == 1 and parts[0].endswith(".onnx")
        if is_file or len(parts) == 2 or (len(parts) > 2 and _VERSION.fullmatch(parts[1])):
            models.setdefault(parts[0], {})[entry.path] = entry
    return models


def _models_of(paths: Iterable[str]) -> set[str]:
    return {path.split("/")[0] for path in paths}


def _whole_versions(
    name: str, files: _Files, config: TritonConfig | None
) -> dict[int, list[Entry]]:
    """Return the versions that have their model file, each with that file last."""
    model_file = (config.model_file if config is not None else "") or MODEL_FILE
    found: dict[int, list[Entry]] = {}
    for path, entry in files.items():
        parts = path.split("/")
        if len(parts) > 2:
            found.setdefault(int(parts[1]), []).append(entry)
    whole = {}
    for number, entries in found.items():
        model = f"{name}/{number}/{model_file}"
        if any(entry.path == model for entry in entries):
            whole[number] = sorted(entries, key=lambda entry: (entry.path == model, entry.path))
    return whole
