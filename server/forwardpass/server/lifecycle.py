"""The life of models: what is on disk is loaded beside what answers, proven, then swapped in."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from forwardpass.server.catalog import Catalog, Offer, State, Version
from forwardpass.server.config import Config
from forwardpass.server.errors import ModelFailedError, ModelNotFoundError
from forwardpass.server.health import Health
from forwardpass.server.labels import LABELS_FILE, LabelsError, read_labels, resolve
from forwardpass.server.model import Model
from forwardpass.server.repository import Contents, ModelFile, RepositoryError, scan
from forwardpass.server.watching import Watcher

logger = logging.getLogger(__name__)

SETTLE_S = 0.25
"""How long a model's files have to stay as they are before they are loaded: they may be copied
in place, or removed and written again."""

_AFTER_ERROR_S = 1.0

_Files = Mapping[int, ModelFile]
"""The versions of one model on disk."""
_Versions = Mapping[int, Version]
"""The versions of one model in the catalog."""


class Lifecycle:
    """Keeps a catalog, and the health of its models, as the repository is on disk.

    Loads one file at a time: two threads were not faster on two cores, and would disturb what
    each other measures of its model. Calls never wait for any of it.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        health: Health,
        load: Callable[[ModelFile], Model],
    ) -> None:
        """Prepare; `load` makes a model of a file or raises ModelFailedError."""
        self._path = config.models
        self._policy = config.versions
        self._watch = config.watch
        self._poll_s = config.poll_s
        self._catalog = catalog
        self._health = health
        self._load = load
        self._thread = threading.Thread(target=self._run, name="lifecycle", daemon=True)
        self._stop = threading.Event()
        self._all_tried = threading.Event()
        # Guards the catalog's change and all below; held while models load.
        self._lock = threading.Lock()
        self._unloaded: set[str] = set()
        self._labels: dict[str, Mapping[str, int]] = {}
        """What each model's labels file said when it was last valid."""
        self._seen: dict[str, tuple[object, float]] = {}
        """What was last seen on disk of each model, and since when."""
        self._said: dict[str, str] = {}
        """What was last logged of each thing that may stay wrong for long."""

    def start(self) -> None:
        """Load everything, then watch the disk, both in a thread of their own."""
        self._thread.start()

    def wait(self) -> None:
        """Return when everything has been tried once, or `stop` was called."""
        self._all_tried.wait()

    def stop(self) -> None:
        """Load nothing more and stop watching; does not wait for what is being loaded."""
        self._stop.set()
        self._all_tried.set()

    def join(self) -> None:
        """Wait, after `stop`, until what is being loaded is."""
        if self._thread.is_alive():
            self._thread.join()

    def load(self, name: str) -> None:
        """Load what is on disk of a model now, also what failed or was unloaded before.

        Raises ModelNotFoundError if there is nothing, and ModelFailedError if a version fails
        or the disk cannot be read; what answers otherwise goes on.
        """
        with self._lock:
            try:
                contents = scan(self._path)
            except RepositoryError as error:
                raise ModelFailedError(name, None, "the repository cannot be read") from error
            if name in contents.unreadable:
                why = contents.unreadable[name]
                raise ModelFailedError(name, None, f"its folder cannot be read: {why}")
            self._unloaded.discard(name)
            if name in contents.files or name in self._catalog:
                self._update(name, contents.files.get(name, {}), by_name=True)
            if name not in contents.files:
                raise ModelNotFoundError(name, contents.files)
            for number, version in sorted(self._catalog.get(name).versions.items(), reverse=True):
                if version.reason:
                    raise ModelFailedError(name, number, version.reason)

    def unload(self, name: str) -> None:
        """Take a model out of service until it is loaded by name; its calls are finished.

        A name that nothing is known of changes nothing.
        """
        with self._lock:
            versions = {
                number: Version(version.file, reason="unloaded")
                for number, version in self._catalog.get(name).versions.items()
            }
            if versions:
                self._unloaded.add(name)
                self._publish(name, versions, unloaded=True)
                logger.info("model %r is unloaded", name)

    def rescan(self, settle_s: float = SETTLE_S) -> Contents | None:
        """Look at the disk and load what changed, if it has stayed as it is for `settle_s`.

        Returns what there is; None if something is still changing or the path is gone, so that
        another look is due soon.
        """
        with self._lock:
            try:
                contents = scan(self._path)
            except RepositoryError as error:
                # A volume may come back: only a model that is gone from a repository is gone.
                self._say("repository", f"{error}; what was loaded goes on answering")
                return None
            faults = [
                f"{name!r} cannot be read: {why}" for name, why in contents.unreadable.items()
            ]
            self._say("repository", "; ".join(faults))
            names = {*contents.files, *self._catalog} - contents.unreadable.keys()
            names -= self._unloaded & contents.files.keys()
            offered = {name: contents.files.get(name, {}) for name in sorted(names)}
            settled = [name for name in offered if self._is_settled(name, offered[name], settle_s)]
            for name in settled:
                self._announce(name, offered[name])
            for name in settled:
                try:
                    self._update(name, offered[name])
                except Exception:
                    # One model shall not keep the others from what is theirs.
                    logger.exception("model %r could not be brought up to date", name)
            return contents if len(settled) == len(offered) else None

    def _run(self) -> None:
        with Watcher(self._stop, self._poll_s) as watcher:
            while not self._stop.is_set():
                contents = None
                try:
                    contents = self.rescan(SETTLE_S if self._all_tried.is_set() else 0.0)
                except Exception:
                    # Whatever it is: what answers goes on answering, and another look is due.
                    logger.exception("a look at %s went wrong", self._path)
                    self._stop.wait(_AFTER_ERROR_S)
                self._all_tried.set()
                if not self._watch:
                    return
                if contents is None:
                    self._stop.wait(SETTLE_S)
                else:
                    watcher.wait(contents.folders)

    def _is_settled(self, name: str, files: _Files, settle_s: float) -> bool:
        state = {number: (file.fingerprint, file.fault) for number, file in files.items()}
        now = time.monotonic()
        seen, since = self._seen.get(name, (None, now))
        if state != seen:
            self._seen[name] = state, now
            since = now
        return now - since >= settle_s

    def _announce(self, name: str, files: _Files) -> None:
        """Let calls of versions that will be loaded know that they are."""
        versions = self._catalog.get(name).versions
        new = {n: Version(files[n]) for n in self._policy.choose(files) if n not in versions}
        self._publish(name, {**versions, **new})

    def _update(self, name: str, files: _Files, *, by_name: bool = False) -> None:
        """Load the versions to serve whose files changed, then drop those not to serve.

        by_name: Load also what failed, although its file is the same, and even while stopping.
        """
        fault = self._read_labels(name)
        versions = dict(self._catalog.get(name).versions)
        tried = {
            number: version.file
            for number, version in versions.items()
            if version.state is not State.LOADING and not (by_name and version.reason)
        }
        while True:
            failed = {number for number in tried if versions[number].model is None}
            chosen = self._policy.choose(files, failed)
            due = [number for number in chosen if not files[number].same_as(tried.get(number))]
            if not due:
                break
            for number in sorted(due):
                if self._stop.is_set() and not by_name:
                    return
                versions[number] = self._try(files[number], versions.get(number))
                tried[number] = files[number]
                self._publish(name, versions)
        for number in versions.keys() - chosen:
            logger.info("model %r version %d is out of service", name, number)
        self._publish(name, {number: versions[number] for number in chosen})
        self._say(f"labels of model {name!r}", fault or self._astray(name))
        if not files:
            self._seen.pop(name, None)
            self._labels.pop(name, None)

    def _try(self, file: ModelFile, before: Version | None) -> Version:
        """Load a file; if it fails, what answered before goes on."""
        try:
            model = self._load(file)
        except ModelFailedError as error:
            reason = error.reason
        except Exception:
            logger.exception("unexpected error in model %r version %d", file.name, file.version)
            reason = "unexpected error while it was loaded; the server's log has the details"
        else:
            logger.info("model %r version %d is ready", file.name, file.version)
            return Version(file, model)
        kept = before.model if before is not None else None
        if kept is not None:
            reason = f"changed on disk, and what it is now fails: {reason}"
        logger.error("model %r version %d failed: %s", file.name, file.version, reason)
        return Version(file, kept, reason)

    def _publish(self, name: str, versions: _Versions, *, unloaded: bool = False) -> None:
        """Swap in what there is of a model; what a call has begun with, it ends with."""
        before = self._catalog.get(name)
        answering = {n for n, version in versions.items() if version.model is not None}
        labels = resolve(self._labels.get(name, {}), before.labels, answering)
        after = Offer(dict(versions), labels, unloaded)
        if after != before:
            self._catalog.put(name, after)
            self._health.set(name, serving=bool(answering))

    def _read_labels(self, name: str) -> str:
        """Read a model's labels; return why they stay as they were, or nothing."""
        try:
            self._labels[name] = read_labels(self._path / name / LABELS_FILE, self._path)
        except LabelsError as error:
            return f"{error}; they stay as they were"
        return ""

    def _astray(self, name: str) -> str:
        """Tell which labels do not stand for a version that answers as the file has it."""
        offer = self._catalog.get(name)
        return "; ".join(
            f"{label!r} stays at version {offer.labels[label]}, since {wanted} does not answer"
            if offer.labels[label] != wanted
            else f"{label!r} stands for version {wanted}, which does not answer"
            for label, wanted in self._labels.get(name, {}).items()
            if wanted not in offer.answering and label in offer.labels
        )

    def _say(self, what: str, text: str) -> None:
        """Log what may stay wrong for long once, and again when it changes."""
        if self._said.get(what, "") == text:
            return
        self._said[what] = text
        if text:
            logger.warning("%s: %s", what, text)
