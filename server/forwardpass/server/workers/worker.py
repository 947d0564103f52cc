"""A worker: a process that answers calls, with the models that the keeper hands to it."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from time import sleep
from typing import Any, TypeVar

from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.quota import NewQuota
from forwardpass.server.app import Front, queue_limits
from forwardpass.server.config import Config
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import KeeperAwayError
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.health import Health
from forwardpass.server.observe.log_settings import set_log
from forwardpass.server.process.channel import Channel, ChannelEndedError, pair
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.process.memory import give_back
from forwardpass.server.repository.catalog import Catalog, Offer
from forwardpass.server.rpc.peers import Counted
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.transport.listening import SharedListener
from forwardpass.server.workers.figures import Figures, ModelFigures, counted_by
from forwardpass.server.workers.recipe import OfferNote, Recipe

logger = logging.getLogger(__name__)

_AGAIN_S = 0.1
"""Time after which a keeper that has gone is asked for again, in seconds."""
_ANSWER_S = 120.0
"""Maximum time in which the keeper answers what is not a load, in seconds: it asks all workers."""

_T = TypeVar("_T")


class Link:
    """The connection to the keeper, whichever process that is now; thread-safe."""

    def __init__(
        self,
        mailbox: socket.socket,
        answers: Mapping[str, Callable[..., Any]],
        restarts: int,
        listens: Callable[[], bool],
    ) -> None:
        """Prepare.

        mailbox: Takes what a keeper is to find. answers: To what it asks. restarts: How often a
        process was started again when this one was. listens: Whether this one answers calls.
        """
        self._mailbox = mailbox
        self._restarts = restarts
        self._listens = listens
        self._answers = answers
        self._channel: Channel
        """The connection now; there is none before `open`."""

    def open(self) -> None:
        """Ask to be taken in, by the keeper there is or the next one."""
        ours, theirs = pair()
        with theirs:
            self._channel = Channel(ours, self._answers, self._ended, "keeper")
            self._channel.start()
            hello = b"%d %d %d" % (os.getpid(), self._restarts, self._listens())
            socket.send_fds(self._mailbox, [hello], [theirs.fileno()])

    def ask(self, what: str, *values: Any) -> "Future[Any]":
        """Ask the keeper; the result may raise ServingError. Cancelling it cancels it there."""
        asked = self._channel.ask(what, *values)
        future: Future[Any] = Future()

        def leave(future: "Future[Any]") -> None:
            if future.cancelled():
                asked.cancel()

        def answer(asked: "Future[Any]") -> None:
            if asked.cancelled():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            error = asked.exception()
            if error is None:
                future.set_result(asked.result())
            else:
                ended = isinstance(error, ChannelEndedError)
                future.set_exception(KeeperAwayError() if ended else error)

        future.add_done_callback(leave)
        asked.add_done_callback(answer)
        return future

    def demand(self, what: str, *values: Any) -> Any:
        """Ask the keeper, and return its answer; raises ServingError."""
        try:
            return self.ask(what, *values).result(_ANSWER_S)
        except TimeoutError:
            raise KeeperAwayError from None

    def _ended(self) -> None:
        sleep(_AGAIN_S)
        self.open()


class KeptControl:
    """Loads and unloads that the keeper makes, for all workers."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def load(self, name: str) -> "Future[None]":
        """Have a model loaded; see `Control`."""
        return self._link.ask("load", name)

    def unload(self, name: str) -> "Future[None]":
        """Have a model unloaded; see `Control`."""
        return self._link.ask("unload", name)


class KeptRegions(Regions):
    """Regions that are registered with all workers or none."""

    def __init__(self, link: Link, *, allowed: bool, max_bytes: int) -> None:
        super().__init__(allowed=allowed, max_bytes=max_bytes)
        self._link = link

    def register(
        self, name: str, key: str, offset: int, byte_size: int, file: int | None = None
    ) -> None:
        """Add a region to all workers; the keeper opens its object."""
        del file
        self._link.demand("register", name, key, offset, byte_size)

    def unregister(self, name: str) -> None:
        """Remove a region, or all, from all workers."""
        self._link.demand("unregister", name)

    def take(self, name: str, key: str, offset: int, byte_size: int, files: Sequence[int]) -> None:
        """Add a region here, whose object the keeper has opened."""
        super().unregister(name)
        super().register(name, key, offset, byte_size, files[0])

    def drop(self, name: str) -> None:
        """Remove a region here."""
        super().unregister(name)

    def keep_only(self, names: set[str]) -> None:
        """Remove all others here."""
        for region in self.status(""):
            if region.name not in names:
                super().unregister(region.name)


class KeptPeers:
    """The other processes, which are asked through the keeper."""

    def __init__(self, link: Link, keys: Callable[[Model], str]) -> None:
        """Prepare; keys: Returns the key of a model."""
        self._link = link
        self._keys = keys

    def counted(self, models: Sequence[Model]) -> Sequence[Counted]:
        """Return what all workers have counted of models."""
        counted: Sequence[Counted] = self._link.demand("counted", list(map(self._keys, models)))
        return counted

    def set_log(self, wanted: Mapping[str, Any]) -> None:
        """Change log settings in all processes."""
        self._link.demand("log", dict(wanted))


class Worker:
    """What one worker has: copies of all that the keeper keeps, and a front."""

    def __init__(
        self, config: Config, incidents: Incidents, mailbox: socket.socket, restarts: int
    ) -> None:
        """Prepare; mailbox, restarts: see `Link`."""
        self._config = config
        self._incidents = incidents
        self._queue = queue_limits(config)
        self._catalog = Catalog()
        self._health = Health()
        self._prepared: dict[str, Future[Model]] = {}
        """Models that are loaded, or are being loaded, and not offered yet, by key."""
        self._keys: dict[str, Model] = {}
        """Models that are offered, by key."""
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._introduced = Event()
        self._listening: Future[None] = Future()
        self._front: Front | None = None
        self._link = Link(
            mailbox,
            {
                "prepare": self._prepare,
                "forget": self._forget,
                "offer": self._offer,
                "health": self._health.set,
                "notes": self._catalog.note,
                "region": lambda *values: self._regions.take(*values),
                "no region": lambda name: self._regions.drop(name),
                "log": set_log,
                "begin": self._begin,
                "listen": self._listen,
                "figures": self._figures,
            },
            restarts,
            self._listening.done,
        )
        self._regions = KeptRegions(
            self._link, allowed=config.shared_memory, max_bytes=config.max_message_bytes
        )

    def serve(self, listener: SharedListener | None, new_quota: NewQuota) -> None:
        """Learn what the others know, then answer calls; returns at once then.

        listener: What to accept from; None: a socket of its own. new_quota: see `Access`.
        """
        self._link.open()
        self._introduced.wait()
        self._front = Front(
            self._config,
            self._incidents,
            self._catalog,
            self._health,
            KeptControl(self._link),
            self._queue,
            KeptPeers(self._link, self._key),
            self._regions,
            access=Access(self._config.tokens, new_quota),
            listener=listener,
        )
        self._front.transport.start()
        self._listening.set_result(None)

    def drain(self) -> None:
        """Report not ready; calls are still answered."""
        self._health.drain()

    def finish(self) -> None:
        """Refuse new calls, wait for those in flight."""
        self._health.drain()
        if self._front is not None:
            self._front.finish(self._config.grace_s)

    def reread(self) -> None:
        """Look at certificates and tokens now."""
        if self._front is not None:
            self._front.reread()

    # What the keeper asks, in its order

    def _prepare(self, recipe: Recipe, files: Sequence[int]) -> "Future[None]":
        content = ModelBytes(files[0])
        loaded: Future[Model] | None = self._prepared.get(recipe.key)
        if recipe.key in self._keys:
            loaded = Future()
            loaded.set_result(self._keys[recipe.key])
        if loaded is None:
            loaded = self._loading.submit(self._load, recipe, content)
        self._prepared[recipe.key] = loaded
        done: Future[None] = Future()

        def end(loaded: "Future[Model]") -> None:
            error = loaded.exception()
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        loaded.add_done_callback(end)
        return done

    def _load(self, recipe: Recipe, content: ModelBytes) -> Model:
        try:
            with content:
                return recipe.make(content, self._config)
        finally:
            give_back()

    def _forget(self, key: str) -> None:
        self._prepared.pop(key, None)

    def _offer(self, offer: OfferNote) -> None:
        try:
            versions = {
                version.number: version.as_version(
                    None if version.key is None else self._model(version.key)
                )
                for version in offer.versions
            }
        except Exception:
            # Without this model it would answer otherwise than the others.
            logger.exception("model %r cannot be offered; this process ends", offer.name)
            logging.shutdown()
            os._exit(1)
        keys = {version.key for version in offer.versions if version.key is not None}
        models = {key: self._model(key) for key in keys}
        self._catalog.put(offer.name, Offer(versions, offer.labels, offer.unloaded))
        self._tidy(offer.name)
        self._keys |= models

    def _model(self, key: str) -> Model:
        model = self._keys.get(key)
        return self._prepared[key].result() if model is None else model

    def _key(self, model: Model) -> str:
        return next((key for key, each in list(self._keys.items()) if each is model), "")

    def _figures(self) -> Figures:
        models = {
            key: ModelFigures.of(model)
            for key, model in self._keys.items()
            if model.statistics.used
        }
        figures = Figures(models, incidents=counted_by(self._incidents))
        if self._front is not None:
            refusals = self._front.service.refusals
            figures.load = self._front.transport.load()
            figures.open_streams = self._front.transport.open_streams
            figures.refused = Counter(refusals.read())
            figures.shed = Counter(refusals.read_shed())
        return figures

    def _tidy(self, name: str) -> None:
        """Let go of all models of a name."""
        for key in [key for key, model in self._keys.items() if model.name == name]:
            del self._keys[key]
        for key, loaded in list(self._prepared.items()):
            if loaded.done() and (loaded.exception() or loaded.result().name == name):
                del self._prepared[key]

    def _begin(self, names: set[str], regions: set[str]) -> None:
        for name in set(self._catalog) - names:
            self._catalog.put(name, Offer())
            self._health.set(name, serving=False)
            self._tidy(name)
        self._regions.keep_only(regions)

    def _listen(self) -> "Future[None]":
        self._introduced.set()
        # Not itself, which a keeper may cancel by its end, and the next one asks for again.
        listening: Future[None] = Future()
        self._listening.add_done_callback(lambda _: _set(listening))
        return listening


def _set(future: "Future[None]") -> None:
    with suppress(Exception):
        future.set_result(None)
