"""The threads that answer calls."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

logger = logging.getLogger(__name__)


class CallThreads(Executor):
    """Runs grpcio's calls, for less than a ThreadPoolExecutor.

    grpcio wants to know of a call when it is done and nothing else: no result, no cancelling. A
    Future's locks for these cost a small call several per cent of its time.
    """

    def __init__(self, count: int) -> None:
        """Start the threads; they do not keep the process from ending."""
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._work, name=f"call_{index}", daemon=True) for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(  # type: ignore[override]  # what grpcio needs of a Future
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> "_Task":
        """Run a function in one of the threads."""
        task = _Task(function, args, kwargs)
        self._waiting.put(task)
        return task

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once what was submitted has run; waits a second at most."""
        del cancel_futures
        for _ in self._threads:
            self._waiting.put(None)
        deadline = monotonic() + 1.0
        for thread in self._threads if wait else ():
            thread.join(max(0.0, deadline - monotonic()))

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            task.run()
            # Or the last call's message would be kept until the next one comes.
            del task


class _Task:
    """A call that waits or runs."""

    __slots__ = ("_args", "_callbacks", "_done", "_function", "_kwargs")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._callbacks: list[Callable[[Any], object]] = []
        self._done = False

    def run(self) -> None:
        try:
            self._function(*self._args, **self._kwargs)
        except BaseException:
            logger.exception("a call ended in an error of gRPC's own")
        self._done = True
        self._tell()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call back once, now if it is done already."""
        self._callbacks.append(callback)
        if self._done:
            self._tell()

    def _tell(self) -> None:
        # Both threads may come here: taking a callback from the list is what happens once.
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            callback(self)
