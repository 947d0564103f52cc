"""Loads and unloads that callers ask for: in a thread of their own, so that nobody else waits."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Protocol

from forwardpass.server.errors import ServingError, ShuttingDownError, TooManyLoadsError

MAX_WAITING = 64
"""Maximum number of callers whose loads and unloads are not done yet."""

Change = Callable[[str], None]
"""Changes the model of a name; raises ServingError."""


class Changes(Protocol):
    """Loads and unloads that callers ask for: `Control`, or another process that has one."""

    def load(self, name: str) -> "Future[None]":
        """Have a model loaded; see `Control`."""

    def unload(self, name: str) -> "Future[None]":
        """Have a model unloaded; see `Control`."""


class Control:
    """Makes changes one after the other; thread-safe.

    Changes of one kind and model that wait together are made once, unless one of the other kind
    was asked for between them.
    """

    def __init__(self, load: Change, unload: Change, *, most: int = MAX_WAITING) -> None:
        """Prepare; most: maximum number of callers that wait."""
        self._load = load
        self._unload = unload
        self._most = most
        self._changed = Condition()
        # Guarded by it; in the order of arrival.
        self._waiting: dict[Future[None], tuple[Change, str]] = {}
        self._made: set[Future[None]] = set()
        """Callers of the change that is being made."""
        self._stopped = False
        self._thread: Thread | None = None

    def load(self, name: str) -> "Future[None]":
        """Have a model loaded; the result may raise what `Lifecycle.load` raises.

        A caller that goes away cancels it: its place is free again, and what nobody waits for any
        more is not begun. Raises TooManyLoadsError, and ShuttingDownError after `stop`.
        """
        return self._ask(self._load, name)

    def unload(self, name: str) -> "Future[None]":
        """Have a model unloaded; in all else like `load`."""
        return self._ask(self._unload, name)

    def stop(self) -> None:
        """End what waits with ShuttingDownError; does not wait for what is being made."""
        with self._changed:
            self._stopped = True
            waiting, self._waiting = list(self._waiting), {}
            self._changed.notify_all()
        _end(waiting, ShuttingDownError())

    def join(self) -> None:
        """Wait, after `stop`, until what is being made is."""
        if self._thread is not None:
            self._thread.join()

    def _ask(self, change: Change, name: str) -> "Future[None]":
        future: Future[None] = Future()
        with self._changed:
            if self._stopped:
                raise ShuttingDownError
            if len(self._waiting) + len(self._made) >= self._most:
                raise TooManyLoadsError(self._most)
            if self._thread is None:
                thread = Thread(target=self._run, name="control", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting[future] = change, name
            self._changed.notify_all()
        future.add_done_callback(self._leave)
        return future

    def _leave(self, future: "Future[None]") -> None:
        with self._changed:
            self._waiting.pop(future, None)
            self._made.discard(future)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            self._make(*taken)

    def _make(self, change: Change, name: str) -> None:
        error: Exception | None = None
        try:
            change(name)
        except ServingError as expected:
            # The frames of its traceback would keep what was read of the file.
            error = expected.with_traceback(None)
        except Exception as unexpected:
            error = unexpected
        with self._changed:
            made, self._made = self._made, set()
        _end(made, error)

    def _take(self) -> tuple[Change, str] | None:
        """Wait for the next change that somebody wants; None after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            first = next(iter(self._waiting.values()))
            for future, asked in self._waiting.items():
                if asked == first:
                    self._made.add(future)
                elif asked[1] == first[1]:
                    break
            for future in self._made:
                del self._waiting[future]
            return first


def _end(futures: Iterable["Future[None]"], error: Exception | None) -> None:
    for future in futures:
        # False for one that was cancelled: until here each could be.
        if not future.set_running_or_notify_cancel():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
