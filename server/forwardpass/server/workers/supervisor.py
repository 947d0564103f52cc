"""The supervisor: the process that was started. It forks all others, and starts them again.

It has imported everything, so that the memory of that is shared, and has no thread, no session of
onnxruntime and no object of gRPC's, which a fork would break. It reads no file and answers nobody.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.ledger import Ledger
from forwardpass.server.app import check_models, check_tracing
from forwardpass.server.config import Config, Transport
from forwardpass.server.observe.log_format import formatter
from forwardpass.server.observe.log_settings import set_log
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.process.signals import ENDING, OTHERS, Signals
from forwardpass.server.process.stderr import DirectHandler
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.transport.certificates import CertificateError, CertificateFiles
from forwardpass.server.transport.listening import (
    Balance,
    ListenError,
    SharedListener,
    address,
    listen,
    listen_for_http,
    reserve,
    unix_path,
)
from forwardpass.server.workers.keeper import Keeper, KeeperState
from forwardpass.server.workers.line import (
    DONE,
    DRAIN,
    FAILED,
    FINISH,
    LOG,
    MODEL,
    OFFER,
    READY,
    REREAD,
    STATE,
    Line,
    hear,
    new_line,
    say,
)
from forwardpass.server.workers.recipe import Shelf
from forwardpass.server.workers.worker import Worker

logger = logging.getLogger(__name__)

KEEPER = -1
"""The number of the keeper, where workers have 0 and above."""

_LIVED_S = 5.0
"""A process that has lived so long is started again at once, in seconds."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 10.0
"""Pauses before a process is started again that keeps ending: each is twice the one before."""
_LOOK_S = 0.5
_DRAINED_S = 5.0
"""Maximum time until all processes report that they are not ready, in seconds."""
_ENDED_S = 5.0
"""Maximum time beyond the grace in which processes end by themselves, in seconds."""
_OF_FILES = ("forwardpass.server.access.authenticator", "forwardpass.server.transport.certificates")
"""Loggers whose lines would be the same in all workers: one of them writes them."""

StartLog = Callable[[Incidents], None]
"""Sets up the log of a process that has just been forked."""
Show = Callable[[Catalog, Config], None]
"""Called once all is ready, in the keeper, with the settings that have the real port."""


class ProcessFailedError(Exception):
    """A process could not start, for a reason that the text gives."""


def role(number: int) -> str:
    """Return what a process is called."""
    return "keeper" if number == KEEPER else f"worker {number}"


@dataclass(eq=False, slots=True)
class _Child:
    number: int
    pid: int
    line: socket.socket
    since: float
    """When it was forked, on the clock of time.monotonic."""

    @property
    def name(self) -> str:
        return role(self.number)


class Supervisor:
    """All processes of one server."""

    def __init__(self, config: Config, start_log: StartLog, show: Show) -> None:
        """Bind, and check all that would fail in every process.

        Raises what `Server` raises.
        """
        check_models(config)
        check_tracing(config)
        Access(config.tokens)
        if config.tls_cert is not None and config.tls_key is not None:
            try:
                CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca)
            except CertificateError as error:
                raise ListenError(f"cannot listen on {address(config)}: {error}") from error
        self._shares_socket = config.transport is Transport.ASYNCIO
        self._sockets = listen(config) if self._shares_socket else [reserve(config)]
        if unix_path(config) is None:
            config = replace(config, port=self._sockets[0].getsockname()[1])
        self._http_sockets = listen_for_http(config)
        if self._http_sockets:
            config = replace(config, http_port=self._http_sockets[0].getsockname()[1])
        self._metrics: socket.socket | None = None
        if config.metrics_port is not None:
            # Imported here: without metrics, prometheus-client need not be installed.
            from forwardpass.server.observe.metrics_server import listen_for_metrics

            self._metrics = listen_for_metrics(config.metrics_host, config.metrics_port)
        self._config = config
        self._start_log = start_log
        self._show = show
        self._ledger = Ledger(config.processes)
        self._balance = Balance(config.processes)
        self._mailbox = new_line()
        for end in self._mailbox:
            end.setblocking(True)
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}
        """When a process that has ended is started again, on the clock of time.monotonic."""
        self._ended_early: dict[int, int] = {}
        """How often in a row a process has ended soon after its start."""
        self._restarts = 0
        """How often a process has ended and was, or will be, started again."""
        self._rereading: set[int] = set()
        self._drained: set[int] = set()
        self._ready = False
        self._stopping = False
        self._state = KeeperState()
        self._shelf = Shelf()
        self._failure: Exception | None = None
        self._selector = selectors.DefaultSelector()
        self._at_terminal = os.isatty(0)

    def run(self) -> None:
        """Serve until a signal; raises ProcessFailedError or what `show` raised."""
        import_all(self._config)
        self._signals = Signals({"SIGHUP": self._reread, "SIGCHLD": self._reap})
        self._selector.register(self._signals, selectors.EVENT_READ)
        gc.collect()
        # What is here now stays shared: a search for garbage would write to all of it.
        gc.freeze()
        try:
            for number in (KEEPER, *range(self._config.processes)):
                self._start(number)
            self._serve()
        finally:
            self._kill()

    def _serve(self) -> None:
        signalled = None
        while signalled is None:
            signalled = self._turn(_LOOK_S)
        drain_s = self._config.drain_s if self._ready and signalled != signal.SIGINT else 0.0
        started = time.monotonic()
        logger.info("%s: draining", signalled.name)
        self._stopping = True
        self._say_all(DRAIN)
        hurry = self._until(lambda: self._drained >= set(self._children), _DRAINED_S)
        hurry = hurry or (drain_s > 0 and self._until(lambda: False, drain_s))
        # As soon as the workers have closed theirs, nobody can connect any more.
        self._close_sockets()
        for child in self._workers():
            say(child.line, FINISH)
        if not hurry:
            self._until(lambda: not self._workers(), self._config.grace_s + _ENDED_S)
        if self._shares_socket and (path := unix_path(self._config)) is not None:
            path.unlink(missing_ok=True)
        logger.info("stopped after %.1f s", time.monotonic() - started)
        self._say_all(FINISH)
        self._until(lambda: not self._children, 0.0 if hurry else _ENDED_S)

    # What happens

    def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait for a condition or the time; return early, and True, when another signal ends it."""
        end = time.monotonic() + within_s
        while not condition() and (left := end - time.monotonic()) > 0:
            if self._turn(min(left, _LOOK_S)) is not None:
                return True
        return False

    def _turn(self, within_s: float) -> signal.Signals | None:
        """Do what there is to do; return a signal that ends the server."""
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if self._stopping:
                del self._due[number]
            elif due <= now:
                del self._due[number]
                self._start(number)
            else:
                within_s = min(within_s, due - now)
        for key, _ in self._selector.select(within_s):
            if key.fileobj is not self._signals:
                self._hear(key.data)
            elif (signalled := self._signals.next_within(0.001)) is not None:
                return signalled
        # SIGCHLDs that come together are one.
        self._reap()
        if self._failure is not None:
            raise self._failure
        return None

    def _hear(self, child: _Child) -> None:
        if child.line.fileno() < 0:
            # It was reaped since the selector reported its line.
            return
        try:
            heard = hear(child.line)
        except BlockingIOError:
            return
        if heard is None:
            # It has ended, or will: a process without its line is of no use.
            self._selector.unregister(child.line)
            child.line.close()
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            return
        what, value = heard.what, heard.value
        if what == DONE and value == DRAIN:
            self._drained.add(child.number)
        elif what == DONE and value == REREAD:
            self._reread_by(child.number)
        elif what == READY:
            self._ready = True
        elif what == STATE:
            self._state = value
        elif what == MODEL and heard.files:
            self._shelf.add(value, heard.files[0])
        elif what == OFFER:
            self._shelf.offer(value)
        elif what == LOG:
            set_log(value)
        elif what == FAILED and not self._ready:
            self._failure = value

    def _reap(self) -> None:
        for child in list(self._children.values()):
            with suppress(ChildProcessError):
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    # What it has said last.
                    while child.line.fileno() >= 0:
                        self._hear(child)
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        del self._children[child.number]
        if child.number != KEEPER:
            self._ledger.clear(child.number)
            self._balance.leave(child.number)
        self._reread_by(child.number)
        if self._stopping or self._failure is not None:
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lived_s = time.monotonic() - child.since
        times = 0 if lived_s > _LIVED_S else self._ended_early.get(child.number, 0)
        self._ended_early[child.number] = times + 1
        pause_s = min(_LAST_PAUSE_S, _FIRST_PAUSE_S * 2**times) if lived_s <= _LIVED_S else 0.0
        self._due[child.number] = time.monotonic() + pause_s
        self._restarts += 1
        logger.error(
            "%s (process %d) ended (%s); another starts in %g s",
            child.name,
            child.pid,
            how,
            pause_s,
        )

    def _reread(self) -> None:
        if self._at_terminal and not os.isatty(0):
            # It was closed, and whoever sat there did not mean to leave a server behind.
            os.kill(os.getpid(), signal.SIGINT)
            return
        if self._rereading:
            logger.info("SIGHUP: files are being read already")
            return
        logger.info("SIGHUP: reading certificates, tokens, labels and the repository again")
        self._rereading = set(self._children)
        self._say_all(REREAD)

    def _reread_by(self, number: int) -> None:
        if number in self._rereading:
            self._rereading.discard(number)
            if not self._rereading:
                logger.info("SIGHUP: read")

    # The processes

    def _workers(self) -> list[_Child]:
        return [child for child in self._children.values() if child.number != KEEPER]

    def _say_all(self, what: str) -> None:
        for child in self._children.values():
            say(child.line, what)

    def _kill(self) -> None:
        for child in self._children.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        for child in self._children.values():
            with suppress(ChildProcessError):
                os.waitpid(child.pid, 0)

    def _start(self, number: int) -> None:
        ours, theirs = new_line()
        # Until it has handlers of its own, a signal would be written to where ours are received.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = None
        try:
            pid = os.fork()
        except OSError as error:
            logger.error("no process can be forked: %s", error)
        if pid == 0:
            self._be(number, ours, theirs, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        if pid is None:
            ours.close()
            self._due[number] = time.monotonic() + _LAST_PAUSE_S
            return
        child = _Child(number, pid, ours, time.monotonic())
        self._children[number] = child
        self._selector.register(ours, selectors.EVENT_READ, child)

    # In the new process

    def _be(
        self,
        number: int,
        ours: socket.socket,
        theirs: socket.socket,
        mask: set[int | signal.Signals],
    ) -> NoReturn:
        try:
            _name(f"fp {role(number)}")
            signal.set_wakeup_fd(-1)
            for name in (*ENDING, *OTHERS):
                # The supervisor says what to do, also where a signal is sent to the whole group.
                signal.signal(getattr(signal, name), lambda *_: None)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._selector.close()
            ours.close()
            for child in self._children.values():
                child.line.close()
            logging.getLogger().handlers.clear()
            incidents = Incidents()
            self._start_log(incidents)
            line = Line(theirs)
            try:
                if number == KEEPER:
                    self._be_keeper(line, incidents)
                else:
                    self._be_worker(number, line, incidents)
            except Exception as error:
                if self._ready:
                    logger.exception("this process cannot start")
                try:
                    line.say(FAILED, error)
                except Exception:
                    # It cannot be sent as what it is.
                    line.say(FAILED, ProcessFailedError(f"{type(error).__name__}: {error}"))
                logging.shutdown()
                os._exit(1)
            threading.Event().wait()
        finally:
            os._exit(1)

    def _close_sockets(self) -> None:
        for listener in (*self._sockets, *self._http_sockets):
            listener.close()

    def _be_keeper(self, line: Line, incidents: Incidents) -> None:
        self._close_sockets()
        keeper = Keeper(self._config, line, self._state, incidents, self._restarts)
        line.obey({DRAIN: keeper.drain, REREAD: keeper.reread, FINISH: _end})
        if self._metrics is not None:
            keeper.measure(self._metrics)
        workers = [child.pid for child in self._workers()]
        keeper.start(self._mailbox[0], self._shelf, workers)
        if not self._ready:
            keeper.announce(lambda catalog: self._show(catalog, self._config))

    def _be_worker(self, number: int, line: Line, incidents: Incidents) -> None:
        if number and self._config.processes > 1:
            for name in _OF_FILES:
                logging.getLogger(name).disabled = True

        def finish() -> None:
            worker.finish()
            _end()

        if self._metrics is not None:
            self._metrics.close()
        self._shelf.close()
        worker = Worker(self._config, incidents, self._mailbox[1], self._restarts)
        line.obey({DRAIN: worker.drain, REREAD: worker.reread, FINISH: finish})
        self._ledger.number = number
        # With grpcio each has a socket of its own.
        sockets = self._sockets if self._shares_socket else ()
        listener = SharedListener(sockets, self._http_sockets, self._balance, number)
        worker.serve(listener, self._ledger.quota)


def _name(name: str) -> None:
    """Have `ps` and `top` show a name, of 15 characters at most, where they can."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _end() -> NoReturn:
    # A normal exit would wait for the threads of aborted calls.
    logging.shutdown()
    os._exit(0)


def import_all(config: Config) -> None:
    """Import what the processes would, each for itself."""
    if config.transport is Transport.ASYNCIO or config.http_port is not None:
        import forwardpass.server.transport.event_loop.server

        if config.http_port is not None:
            import forwardpass.server.transport.event_loop.http_connection
        with suppress(ImportError):
            import uvloop  # noqa: F401
    if config.transport is Transport.GRPCIO:
        import forwardpass.server.transport.grpcio.server
    if config.metrics_port is not None:
        import forwardpass.server.workers.scrape  # noqa: F401
    if config.watch:
        with suppress(ImportError):
            import watchfiles._rust_notify  # noqa: F401


def serve_processes(config: Config, start_log: StartLog, show: Show) -> NoReturn:
    """Serve with `config.processes` workers until a signal, then exit with 0.

    Signals do what they do in `serve_until_signalled`. start_log: Sets up the log of each process.
    show: Called in one of them when all is ready; what it raises ends the server.

    Raises what `Server` raises.
    """
    handler = DirectHandler()
    handler.setFormatter(formatter(config.log_format))
    supervisor = Supervisor(config, start_log, show)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    supervisor.run()
    sys.stdout.flush()
    os._exit(0)
