"""The keeper: the process that finds, checks, tries and proves models, for all workers.

It answers no calls. Each file is proven, tried and measured here, once; the workers get the bytes,
as memory that all share, and what was found out. What a caller changes at one worker goes through
the keeper to all of them, and is answered when it holds for all.
"""

import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Lock, Thread
from typing import Any

from forwardpass.server.app import Models, new_loader, queue_limits
from forwardpass.server.config import Config
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import ModelFailedError, ServingError
from forwardpass.server.guard.files import ModelBytes, check_fits
from forwardpass.server.observe.log_settings import set_log
from forwardpass.server.process.channel import Channel
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.repository.catalog import Catalog, Offer
from forwardpass.server.repository.disk import ModelFile
from forwardpass.server.repository.trial import Trial
from forwardpass.server.rpc.peers import Counted
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.workers.figures import Figures, ModelFigures
from forwardpass.server.workers.line import LOG, MODEL, OFFER, READY, STATE, Line
from forwardpass.server.workers.members import LOADED_S, TOLD_S, Member, Members, end_worker
from forwardpass.server.workers.recipe import KeptModel, Recipe, Shelf, copy_of, note

logger = logging.getLogger(__name__)

_READY_S = 0.05
"""Time between two looks whether the server is ready, in seconds."""
_LOOK_S = 0.05
"""Time between two looks whether a worker still lives, in seconds."""


@dataclass(frozen=True)
class KeeperState:
    """What callers asked for, which a keeper hands to the one that takes its place."""

    unloaded: frozenset[str] = frozenset()
    regions: tuple[tuple[str, str, int, int], ...] = ()
    """Name, key, offset and size of each."""
    log: dict[str, Any] = field(default_factory=dict)


class SharedCatalog(Catalog):
    """A catalog whose changes hold for all workers when they are made."""

    def __init__(self, members: Members, line: Line) -> None:
        super().__init__()
        self._members = members
        self._line = line
        self.coming: dict[str, KeptModel] = {}
        """Models that workers have loaded and do not offer yet, by key."""

    def put(self, name: str, offer: Offer) -> None:
        """Replace the offer of a model, here and at all workers."""
        super().put(name, offer)
        written = note(name, offer)
        # First: a keeper that takes the place of this one has all that a worker may answer by.
        self._line.say(OFFER, written)
        # As long as loading: a worker that is just introduced may still load it.
        self._members.ask_all("offer", written, within_s=LOADED_S)
        for version in written.versions:
            self.coming.pop(version.key or "", None)

    def note(self, notes: Mapping[str, str]) -> None:
        """Replace what is said of models, here and at all workers."""
        if notes != self.notes:
            super().note(notes)
            self._members.ask_all("notes", notes)


class Keeper:
    """Keeps models, shared memory and log settings the same in all workers."""

    def __init__(
        self, config: Config, line: Line, state: KeeperState, incidents: Incidents, restarts: int
    ) -> None:
        """Prepare.

        state: What the keeper before has left. restarts: How often a process was started again.

        Raises RepositoryError.
        """
        self._incidents = incidents
        self._config = config
        self._line = line
        self._state = state
        self.members = Members()
        self.restarts = restarts
        """How often a process was started again, as of the latest start."""
        self._trial = Trial(memory_bytes=config.trial_memory_bytes, cpu_s=config.trial_s)
        self._load = new_loader(config, self._trial, queue_limits(config), self._kept).load
        self.catalog = SharedCatalog(self.members, line)
        self.models = Models(config, self.catalog, self._load_everywhere, state.unloaded)
        self._regions = Regions(allowed=config.shared_memory)
        # One change of regions or of log settings at a time.
        self._changing = Lock()
        self._work = ThreadPoolExecutor(4, thread_name_prefix="keeper")
        self._again(state)

    def start(self, mailbox: socket.socket, shelf: Shelf, workers: Collection[int]) -> None:
        """Load all models, take in the workers that ask at the mailbox; return when all is ready.

        shelf: What the keeper before has offered, which is offered on, also where the file on disk
        has changed since; taken over. workers: The processes that there are. None is listened to
        before all are known, so that what is changed by one holds for the others, too.
        """
        self._take_over(shelf)
        self.models.health.listen(self._tell_health)
        self.members.add(self._gather(mailbox, set(workers)), self._introduce)
        Thread(target=self._welcome, args=(mailbox,), name="welcome", daemon=True).start()
        self.models.start()
        self.models.lifecycle.wait()

    def measure(self, listener: socket.socket) -> None:
        """Answer for the metrics of all processes."""
        # Imported here: without metrics, prometheus-client need not be installed or loaded.
        from forwardpass.server.observe.metrics_server import MetricsServer
        from forwardpass.server.workers.scrape import ProcessesCollector, SummedCollector

        config = self._config
        collector = SummedCollector(
            config,
            self.catalog,
            self.models.health,
            self._incidents,
            self.gather,
            lambda: (self.members.listening, self.restarts),
            self.models.mirrored,
        )
        processes = ProcessesCollector(lambda: [os.getppid(), os.getpid(), *self.members.pids])
        MetricsServer(
            config.metrics_host, 0, collector, process=processes, listener=listener
        ).start()

    def drain(self) -> None:
        """Load nothing more."""
        self.models.drain()

    def reread(self) -> None:
        """Look at the repository now."""
        self.models.reread()

    # Models

    def _kept(self, model: Model, content: ModelBytes) -> Model:
        # Every worker loads it; meanwhile its largest constants are there twice.
        need = 2 * self._config.processes * max(len(content), model.constant_bytes)
        check_fits("file", len(content), need)
        content = copy_of(content)
        recipe = Recipe.of(model, model.path, content)
        return KeptModel(model, recipe, content, self._config.processes)

    def _load_everywhere(self, file: ModelFile) -> Model:
        model = self._load(file)
        if not isinstance(model, KeptModel):
            raise TypeError(type(model))
        self.catalog.coming[model.recipe.key] = model
        self._line.say(MODEL, model.recipe, [model.content.fd])
        try:
            # By each worker, before any of them offers it.
            self.members.ask_all(
                "prepare",
                model.recipe,
                descriptors=[model.content.fd],
                within_s=LOADED_S,
            )
        except Exception as error:
            del self.catalog.coming[model.recipe.key]
            self.members.ask_all("forget", model.recipe.key)
            if isinstance(error, ServingError):
                raise
            logger.error("model %r cannot be loaded by all workers: %s", file.name, error)
            reason = "not all processes could load it; the server's log has the details"
            raise ModelFailedError(file.name, file.version, reason, may_pass=True) from error
        return model

    def _tell_health(self, name: str, serving: bool) -> None:
        self.members.ask_all("health", name, serving)

    def _take_over(self, shelf: Shelf) -> None:
        for name, written in shelf.offers.items():
            versions = {
                each.number: each.as_version(self._taken(shelf, each.key))
                for each in written.versions
            }
            offer = Offer(versions, written.labels, written.unloaded)
            self.catalog.put(name, offer)
            self.models.health.set(name, serving=bool(offer.answering))
        # What was about to be offered.
        shelf.close()

    def _taken(self, shelf: Shelf, key: str | None) -> KeptModel | None:
        if key not in shelf.models:
            return None
        recipe, file = shelf.models.pop(key)
        content = ModelBytes(file)
        try:
            model = recipe.make(content, self._config)
        except ModelFailedError as error:
            # What is left is the file on disk.
            logger.error("model %r version %d: %s", recipe.name, recipe.version, error.reason)
            return None
        return KeptModel(model, recipe, content, self._config.processes)

    # Workers

    def _gather(self, mailbox: socket.socket, pids: set[int]) -> list[Member]:
        """Return workers that ask at the mailbox, once each of these processes has or has ended."""
        gathered = []
        end = time.monotonic() + TOLD_S
        while pids:
            if select.select([mailbox], [], [], _LOOK_S)[0] and (member := self._next(mailbox)):
                gathered.append(member)
                pids.discard(member.pid)
            pids = {pid for pid in pids if _lives(pid)}
            if time.monotonic() > end:
                for pid in pids:
                    end_worker(pid, f"has not asked for its models within {TOLD_S:g} s")
                end = math.inf
        return gathered

    def _welcome(self, mailbox: socket.socket) -> None:
        while True:
            if member := self._next(mailbox):
                self.members.add([member], self._introduce)

    def _next(self, mailbox: socket.socket) -> Member | None:
        """Wait for a worker at the mailbox; None if it could not be understood, which is logged."""
        try:
            data, descriptors, _, _ = socket.recv_fds(mailbox, 64, 1)
            pid, restarts, listens = map(int, data.split())
            connection = socket.socket(fileno=descriptors[0])
        except Exception:
            logger.exception("a worker could not be taken in")
            return None
        self.restarts = max(self.restarts, restarts)
        answers = {
            "load": lambda name: self._noted(self.models.control.load(name)),
            "unload": lambda name: self._noted(self.models.control.unload(name)),
            "register": self._in_turn(self._register),
            "unregister": self._in_turn(self._unregister),
            "log": self._in_turn(self._set_log),
            "counted": lambda keys: self._work.submit(self._counted, keys),
        }
        channel = Channel(connection, answers, lambda: self.members.remove(member), f"of {pid}")
        member = Member(pid, channel, introduced=bool(listens))
        return member

    def _introduce(self, channel: Channel) -> "Future[Any]":
        """Send all there is; what fails is reported with the answer to the last message."""
        offers = [(name, self.catalog.get(name)) for name in self.catalog]
        for name, offer in offers:
            for model in offer.answering.values():
                _prepare(channel, model)
            channel.ask("offer", note(name, offer))
        # After the offers, which end what was prepared before them.
        for model in list(self.catalog.coming.values()):
            _prepare(channel, model)
        for region in self._regions.status(""):
            values = region.name, region.key, region.offset, region.byte_size
            channel.ask("region", *values, descriptors=[region.file])
        if self._state.log:
            channel.ask("log", self._state.log)
        channel.ask("notes", self.catalog.notes)
        for name, serving in self.models.health.states().items():
            channel.ask("health", name, serving)
        known = {name for name, _ in offers} | self.models.lifecycle.unloaded
        return channel.ask("begin", known, {region.name for region in self._regions.status("")})

    def gather(self) -> Figures:
        """Ask all workers what they have counted, and return the sums; models have theirs."""
        figures = self.members.figures()
        kept = [
            model
            for name in self.catalog
            for model in self.catalog.get(name).answering.values()
            if isinstance(model, KeptModel)
        ]
        for model in kept:
            model.statistics.figures = figures.models.get(model.recipe.key, ModelFigures())
        self.members.forget_models({model.recipe.key for model in kept})
        return figures

    def _counted(self, keys: Sequence[str]) -> list[Counted]:
        figures = self.gather()
        found = [figures.models.get(key, ModelFigures()) for key in keys]
        return [
            Counted(each.calls, dict(sorted(each.runs.items())), each.phases, each.waiting)
            for each in found
        ]

    # What callers change

    def _noted(self, done: "Future[None]") -> "Future[None]":
        def keep(_: "Future[None]") -> None:
            if self._state.unloaded != self.models.lifecycle.unloaded:
                self._keep(unloaded=self.models.lifecycle.unloaded)

        done.add_done_callback(keep)
        return done

    def _in_turn(self, change: Callable[..., None]) -> "Callable[..., Future[None]]":
        def make(*values: Any) -> None:
            with self._changing:
                change(*values)

        return lambda *values: self._work.submit(make, *values)

    def _register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        self._regions.register(name, key, offset, byte_size)
        (region,) = self._regions.status(name)
        try:
            values = name, key, offset, byte_size
            self.members.ask_all("region", *values, descriptors=[region.file])
        except Exception:
            self._unregister(name)
            raise
        self._keep_regions()

    def _unregister(self, name: str) -> None:
        self._regions.unregister(name)
        self.members.ask_all("no region", name)
        self._keep_regions()

    def _set_log(self, wanted: dict[str, Any]) -> None:
        set_log(wanted)
        self.members.ask_all("log", wanted)
        self._keep(log={**self._state.log, **wanted})
        self._line.say(LOG, wanted)

    # What a successor has to know

    def _keep_regions(self) -> None:
        regions = self._regions.status("")
        self._keep(regions=tuple((r.name, r.key, r.offset, r.byte_size) for r in regions))

    def _keep(self, **changed: Any) -> None:
        self._state = replace(self._state, **changed)
        self._line.say(STATE, self._state)

    def _again(self, state: KeeperState) -> None:
        if state.log:
            set_log(state.log)
        for region in state.regions:
            # It may be gone, as the memory of a client that has ended.
            with suppress(ServingError, OSError):
                self._regions.register(*region)

    def announce(self, show: Callable[[Catalog], None]) -> None:
        """Say that the server is ready, once it is; raises what `show` raises."""
        self.members.wait_for(self._config.processes)
        while not self.models.health.ready:
            time.sleep(_READY_S)
        show(self.catalog)
        self._line.say(READY)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _prepare(channel: Channel, model: Model) -> None:
    if isinstance(model, KeptModel):
        channel.ask("prepare", model.recipe, descriptors=[model.content.fd])
