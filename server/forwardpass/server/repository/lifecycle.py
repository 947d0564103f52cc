"""The life of models: files are loaded beside the models that answer, proven, then swapped in."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from forwardpass.server import audit
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import ModelFailedError, ModelNotFoundError, Status
from forwardpass.server.health import SERVER, Health
from forwardpass.server.repository.catalog import Catalog, Offer, State, Version
from forwardpass.server.repository.disk import Contents, ModelFile, RepositoryError, scan
from forwardpass.server.repository.labels import LABELS_FILE, LabelsError, read_labels, resolve
from forwardpass.server.repository.triton_config import CONFIG_FILE
from forwardpass.server.repository.version_policy import VersionPolicy
from forwardpass.server.repository.watching import Watcher

logger = logging.getLogger(__name__)

SETTLE_S = 0.25
"""Seconds for which a model's files must not change before they are loaded: they may be copied in
place, or removed and written again."""

_AFTER_ERROR_S = 1.0
FIRST_PAUSE_S, LAST_PAUSE_S = 10.0, 3600.0
"""Between tries of a file that failed for want of time or memory: each is twice the one before."""

_Files = Mapping[int, ModelFile]
"""The versions of one model on disk."""
_Versions = Mapping[int, Version]
"""The versions of one model in the catalog."""


class Lifecycle:
    """Keeps a catalog, and the health of its models, in step with the repository on disk.

    Loads one file at a time: two threads were not faster on two cores, and would disturb each
    other's measurements of a model. Calls never wait for any of it.
    """

    def __init__(
        self,
        path: Path,
        catalog: Catalog,
        health: Health,
        load: Callable[[ModelFile], Model],
        *,
        policy: VersionPolicy = VersionPolicy(),  # noqa: B008 - frozen
        watch: bool = True,
        poll_s: float | None = None,
        unloaded: Iterable[str] = (),
    ) -> None:
        """Prepare.

        path: The repository. load: Makes a model of a file or raises ModelFailedError. watch:
        Whether to look for changes after the start. poll_s: Seconds between two looks at every
        file, for volumes without file events; None: file events are used. unloaded: Models that
        are not loaded until they are asked for by name.
        """
        self._path = path
        self._policy = policy
        self._watch = watch
        self._poll_s = poll_s
        self._catalog = catalog
        self._health = health
        self._load = load
        self._thread = threading.Thread(target=self._run, name="lifecycle", daemon=True)
        self._stop = threading.Event()
        self._all_tried = threading.Event()
        # Guards changes of the catalog and all below; held while models load.
        self._lock = threading.Lock()
        self._unloaded = set(unloaded)
        self._labels: dict[str, Mapping[str, int]] = {}
        """The labels of each model, as of its last valid file."""
        self._seen: dict[str, tuple[object, float]] = {}
        """The files of each model when they were last listed, and since when they are the same."""
        self._said: dict[str, str] = {}
        """The last warning logged about each subject."""

    @property
    def unloaded(self) -> frozenset[str]:
        """The models that were unloaded by name."""
        return frozenset(self._unloaded)

    def start(self) -> None:
        """Load everything, then watch the disk, in a thread of its own."""
        self._thread.start()

    def wait(self) -> None:
        """Return when everything has been tried once, or `stop` was called."""
        self._all_tried.wait()

    def stop(self) -> None:
        """Load nothing more and stop watching; does not wait for what is being loaded."""
        self._stop.set()
        self._all_tried.set()

    def join(self) -> None:
        """Wait, after `stop`, until the file that is being loaded is loaded."""
        if self._thread.is_alive():
            self._thread.join()

    def load(self, name: str) -> None:
        """Load the files of a model now, also those that failed or were unloaded before.

        Raises ModelNotFoundError if there is none, and ModelFailedError if a version fails or
        the disk cannot be read; versions that answer go on answering.
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
                raise ModelNotFoundError(name, contents.files, loading=True)
            for number, version in sorted(self._catalog.get(name).versions.items(), reverse=True):
                if version.reason:
                    raise ModelFailedError(name, number, version.reason)

    def unload(self, name: str) -> None:
        """Take a model out of service until it is loaded by name; its calls are finished.

        An unknown name changes nothing.
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
        """Look at the disk and load what changed, once it has not changed for `settle_s`.

        Returns what is on disk; None if something is still changing or the path is gone, so
        that another look is due soon.
        """
        with self._lock:
            try:
                contents = scan(self._path)
            except RepositoryError as error:
                # A volume may come back: models are removed only if the repository can be read.
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
                    # An error of one model must not stop the update of the others.
                    logger.exception("model %r could not be brought up to date", name)
            return contents if len(settled) == len(offered) else None

    def _run(self) -> None:
        with Watcher(self._stop, self._poll_s) as watcher:
            while not self._stop.is_set():
                contents = None
                try:
                    if self._watch or not self._all_tried.is_set():
                        contents = self.rescan(SETTLE_S if self._all_tried.is_set() else 0.0)
                    else:
                        self._try_again()
                except Exception:
                    # Whatever the error: the models go on answering, and another look is due.
                    logger.exception("looking for changes in %s failed", self._path)
                    self._stop.wait(_AFTER_ERROR_S)
                if not self._all_tried.is_set():
                    self._report_tried()
                within_s = self._until_next_try()
                if not self._watch:
                    if within_s is None:
                        return
                    self._stop.wait(max(within_s, SETTLE_S))
                elif contents is None:
                    self._stop.wait(SETTLE_S)
                else:
                    watcher.wait(contents.folders, within_s)

    def _report_tried(self) -> None:
        """Report the server ready, unless nothing answers yet and something may later."""
        with self._lock:
            offers = [self._catalog.get(name) for name in self._catalog]
            waits = not offers or self._until_next_try() is not None
            if any(offer.answering for offer in offers) or not waits:
                self._health.set(SERVER, serving=True)
            else:
                logger.warning(
                    "no model of %s answers yet: not ready until one does; looked for are "
                    ".onnx files and NAME/VERSION/model.onnx",
                    self._path,
                )
            self._all_tried.set()

    def _until_next_try(self) -> float | None:
        """Return how long it is until a file is tried again; None if none is."""
        times = [
            version.again_s
            for name in self._catalog
            for version in self._catalog.get(name).versions.values()
            if version.again_s is not None
        ]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _try_again(self) -> None:
        """Try what may pass now, as it was found."""
        with self._lock:
            for name in list(self._catalog):
                versions = self._catalog.get(name).versions.items()
                if any(_is_due(version) for _, version in versions):
                    self._update(name, {number: version.file for number, version in versions})

    def _is_settled(self, name: str, files: _Files, settle_s: float) -> bool:
        state = {number: (file.fingerprint, file.fault) for number, file in files.items()}
        now = time.monotonic()
        seen, since = self._seen.get(name, (None, now))
        if state != seen:
            self._seen[name] = state, now
            since = now
        return now - since >= settle_s

    def _announce(self, name: str, files: _Files) -> None:
        """Publish the versions that will be loaded, so that their calls fail as LOADING."""
        versions = self._catalog.get(name).versions
        chosen = self._policy_of(files).choose(files)
        new = {n: Version(files[n]) for n in chosen if n not in versions}
        self._publish(name, {**versions, **new})

    def _update(self, name: str, files: _Files, *, by_name: bool = False) -> None:
        """Load the versions to serve whose files changed, then drop those not to serve.

        by_name: Whether to load also what failed with the same file, and even while stopping.
        """
        fault = self._read_labels(name)
        policy = self._policy_of(files)
        self._say(f"{CONFIG_FILE} of model {name!r}", _ignored(files))
        versions = dict(self._catalog.get(name).versions)
        tried = {
            number: version.file
            for number, version in versions.items()
            if version.state is not State.LOADING
            and not (by_name and version.reason)
            and not _is_due(version)
        }
        while True:
            failed = {number for number in tried if versions[number].model is None}
            chosen = policy.choose(files, failed)
            due = [number for number in chosen if not files[number].same_as(tried.get(number))]
            if not due:
                break
            for number in sorted(due):
                if self._stop.is_set() and not by_name:
                    return
                versions[number] = self._try(files[number], versions.get(number))
                if not by_name:
                    self._record("load", name, number, versions[number].reason)
                tried[number] = files[number]
                self._publish(name, versions)
        for number in versions.keys() - chosen:
            logger.info("model %r version %d is out of service", name, number)
            if not by_name:
                self._record("unload", name, number)
        self._publish(name, {number: versions[number] for number in chosen})
        self._say(f"labels of model {name!r}", fault or self._unresolved_labels(name))
        if not files:
            self._seen.pop(name, None)
            self._labels.pop(name, None)

    def _try(self, file: ModelFile, before: Version | None) -> Version:
        """Load a file; if it fails, the model that answered before goes on answering."""
        pause_s = None
        try:
            model = self._load(file)
        except ModelFailedError as error:
            reason = error.reason
            if error.may_pass:
                pause_s = self._next_pause(file, before)
                reason += f"; it will be tried again in {pause_s:g} s"
        except Exception:
            logger.exception("unexpected error in model %r version %d", file.name, file.version)
            reason = "unexpected error while it was loaded; the server's log has the details"
        else:
            logger.info("model %r version %d is ready", file.name, file.version)
            return Version(file, model)
        kept = before.model if before is not None else None
        if kept is not None:
            reason = f"changed on disk, and the new file fails: {reason}"
        logger.error("model %r version %d failed: %s", file.name, file.version, reason)
        return Version(file, kept, reason, pause_s)

    def _next_pause(self, file: ModelFile, before: Version | None) -> float:
        if before is None or before.pause_s is None or not file.same_as(before.file):
            return FIRST_PAUSE_S
        return min(2 * before.pause_s, LAST_PAUSE_S)

    def _publish(self, name: str, versions: _Versions, *, unloaded: bool = False) -> None:
        """Swap in the versions of a model; a call ends with the model with which it began."""
        before = self._catalog.get(name)
        answering = {n for n, version in versions.items() if version.model is not None}
        labels = resolve(self._labels.get(name, {}), before.labels, answering)
        after = Offer(dict(versions), labels, unloaded)
        if after != before:
            if before.answering and after.answering:
                _record_labels(name, before.labels, after.labels)
            self._catalog.put(name, after)
            self._health.set(name, serving=bool(answering))
            if answering and self._all_tried.is_set():
                self._health.set(SERVER, serving=True)

    def _record(self, event: str, name: str, version: int, reason: str = "") -> None:
        """Record what a change on disk did; not what the start found there."""
        if self._all_tried.is_set():
            code = Status.FAILED_PRECONDITION if reason else Status.OK
            audit.record(event, caller=audit.FILE, model=name, version=version, code=code.name)

    def _read_labels(self, name: str) -> str:
        """Read a model's labels; return why they do not change, empty if they are valid."""
        try:
            self._labels[name] = read_labels(self._path / name / LABELS_FILE, self._path)
        except LabelsError as error:
            return f"{error}; the labels before remain"
        return ""

    def _policy_of(self, files: _Files) -> VersionPolicy:
        """Return the version policy of a model: that of its configuration, if it has one."""
        policies = (file.config.policy for file in files.values() if file.config is not None)
        return next((policy for policy in policies if policy is not None), self._policy)

    def _unresolved_labels(self, name: str) -> str:
        """Return a warning about labels whose version in the file does not answer."""
        offer = self._catalog.get(name)
        return "; ".join(
            f"{label!r} stays at version {offer.labels[label]}, since {wanted} does not answer"
            if offer.labels[label] != wanted
            else f"{label!r} refers to version {wanted}, which does not answer"
            for label, wanted in self._labels.get(name, {}).items()
            if wanted not in offer.answering and label in offer.labels
        )

    def _say(self, what: str, text: str) -> None:
        """Log a warning once, and again when it changes; an empty text means that all is well."""
        if self._said.get(what, "") == text:
            return
        self._said[what] = text
        if text:
            logger.warning("%s: %s", what, text)


def _record_labels(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    for label in sorted({*before, *after}):
        old, new = before.get(label), after.get(label)
        if old != new:
            audit.record("label", caller=audit.FILE, model=name, label=label, before=old, after=new)


def _is_due(version: Version) -> bool:
    """Whether a version is to be tried again, though its file is the same."""
    return version.again_s is not None and time.monotonic() >= version.again_s


def _ignored(files: _Files) -> str:
    """Return a warning about the fields of a model's configuration that have no effect here."""
    ignored = {name for file in files.values() if file.config for name in file.config.ignored}
    return f"fields that are not honored: {', '.join(sorted(ignored))}" if ignored else ""
