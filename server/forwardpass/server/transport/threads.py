"""The threads that answer calls."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from enum import IntEnum
from queue import SimpleQueue
from threading import Lock, Thread, current_thread, local
from time import monotonic, perf_counter_ns
from typing import Any

logger = logging.getLogger(__name__)

_BATCH_TURNS = 8
"""So many tasks of the class INTERACTIVE may run in a row while one of the class BATCH waits."""
_BATCH_BESIDE = 1
"""Maximum tasks of the class BATCH that run while interactive ones come: each more makes those
wait longer for Python's lock."""
_RECENT_S = 0.1
"""So long after a task of the class INTERACTIVE others are expected."""


class TaskClass(IntEnum):
    """What a task is to its caller; threads take the lowest first."""

    INTERACTIVE = 0
    BATCH = 1


_HERE = local()


def current_task() -> "Task | None":
    """Return the task that this thread runs; None in other threads."""
    return getattr(_HERE, "task", None)


class CallThreads(Executor):
    """Runs grpcio's calls at a lower cost than a ThreadPoolExecutor, and the most urgent first.

    grpcio only needs to know when a call is done: no result, no cancelling. A Future's locks for
    these cost a small call several percent of its time, and so would a lock that every call takes:
    one that is held when its thread has to give up Python's makes all others wait for it.

    Tasks of the class BATCH never have all threads, unless there is only one.
    """

    def __init__(self, count: int) -> None:
        """Start the threads as daemons, so that the process can end."""
        self._turns: SimpleQueue[bool] = SimpleQueue()
        """True for each task that may begin, of whichever class; False for each thread to end."""
        self._interactive: deque[Task] = deque()
        self._batch: deque[Task] = deque()
        """Tasks of the class BATCH that may begin."""
        # Guards the two below, and their way to `_batch`; tasks of the other class do without.
        self._lock = Lock()
        self._held: deque[Task] = deque()
        """Tasks of the class BATCH that may not begin yet."""
        self._batch_out = 0
        """How many of them may begin or run."""
        self._batch_most = max(1, count // 2)
        self._interactive_until = 0.0
        """Until when interactive tasks are expected, on the clock of time.monotonic."""
        self._in_a_row = 0
        """Tasks of the class INTERACTIVE that were taken since the last one of the class BATCH."""
        self._ended = False
        """Whether the threads end with what was submitted."""
        self._running: set[Task] = set()
        self._threads: set[Thread] = set()
        for _ in range(count):
            self._start()

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a thread."""
        return sum(map(self.waiting_as, TaskClass))

    def waiting_as(self, kind: TaskClass) -> int:
        """Return the number of tasks of a class that wait for a thread."""
        if kind is TaskClass.INTERACTIVE:
            return len(self._interactive)
        return len(self._batch) + len(self._held)

    @property
    def running(self) -> int:
        """The number of threads that have a task."""
        return len(self._running)

    def oldest_ns(self, kind: TaskClass) -> int:
        """Return how long the first task of a class has waited, in nanoseconds; 0: none waits."""
        queues = [self._interactive] if kind is TaskClass.INTERACTIVE else [self._batch, self._held]
        for queue in queues:
            try:
                return perf_counter_ns() - queue[0].since_ns
            except IndexError:
                continue
        return 0

    def submit(  # type: ignore[override]  # what grpcio needs of a Future
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> "Task":
        """Run a function in one of the threads."""
        return self.submit_as(TaskClass.INTERACTIVE, function, *args, **kwargs)

    def submit_as(
        self, kind: TaskClass, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> "Task":
        """Run a function of a class in one of the threads."""
        task = Task(self, kind, function, args, kwargs)
        if kind is TaskClass.INTERACTIVE:
            self._interactive_until = monotonic() + _RECENT_S
            self._interactive.append(task)
            self._turns.put(True)
            if self._ended:
                self._start_last()
            return task
        with self._lock:
            self._held.append(task)
            self._let_begin()
        return task

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once all submitted work has run; waits at most a second."""
        del cancel_futures
        with self._lock:
            # First: what is submitted from now on comes after the ends of these.
            self._ended = True
            threads = list(self._threads)
        for _ in threads:
            self._turns.put(False)
        deadline = monotonic() + 1.0
        for thread in threads if wait else ():
            thread.join(max(0.0, deadline - monotonic()))

    def step_aside(self, kind: TaskClass) -> None:
        """Start a thread in place of one whose task of this class waits for its caller."""
        with self._lock:
            self._start()
            if kind is TaskClass.BATCH:
                self._batch_out -= 1
                self._let_begin()

    def come_back(self, kind: TaskClass) -> None:
        """End a thread, since a task that stepped aside goes on."""
        with self._lock:
            if kind is TaskClass.BATCH:
                self._batch_out += 1
        self._turns.put(False)

    def _start(self) -> None:
        thread = Thread(target=self._work, name="call", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _start_last(self) -> None:
        """Start a thread for a task of a run that goes on: jobs of others may wait for its end."""
        with self._lock:
            self._start()
        self._turns.put(False)

    def _work(self) -> None:
        while self._turns.get():
            task = self._take()
            self._running.add(task)
            _HERE.task = task
            task.run()
            _HERE.task = None
            self._running.discard(task)
            if task.kind is TaskClass.BATCH:
                with self._lock:
                    self._batch_out -= 1
                    self._let_begin()
            # Otherwise the last call's message would be kept until the next call.
            del task
        with self._lock:
            self._threads.discard(current_thread())

    def _let_begin(self) -> None:
        """Let tasks of the class BATCH begin, as many as may; with the lock."""
        most = self._batch_most
        if monotonic() < self._interactive_until:
            most = min(most, _BATCH_BESIDE)
        while self._held and self._batch_out < most:
            self._batch_out += 1
            self._batch.append(self._held.popleft())
            self._turns.put(True)

    def _take(self) -> "Task":
        """Return the most urgent task; there is one for each turn."""
        while True:
            # One of many, or a load of interactive calls would keep the others for ever.
            first, second = self._interactive, self._batch
            if self._in_a_row >= _BATCH_TURNS:
                first, second = second, first
            for queue in (first, second):
                try:
                    task = queue.popleft()
                except IndexError:
                    continue
                self._in_a_row = 0 if queue is self._batch else self._in_a_row + 1
                return task


class Task:
    """A waiting or running call."""

    __slots__ = (
        "_args",
        "_callbacks",
        "_done",
        "_function",
        "_kwargs",
        "_threads",
        "kind",
        "since_ns",
    )

    def __init__(
        self,
        threads: CallThreads | None,
        kind: TaskClass,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Prepare; threads: those that run it, None if it is run at once."""
        self._threads = threads
        self.kind = kind
        self.since_ns = perf_counter_ns()
        """When it was submitted, on the clock of time.perf_counter_ns."""
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._callbacks: list[Callable[[Any], object]] = []
        self._done = False

    def run(self) -> None:
        """Run the function, and call back."""
        try:
            self._function(*self._args, **self._kwargs)
        except BaseException:
            logger.exception("a call ended in an error inside gRPC")
        self._done = True
        self._notify()

    def step_aside(self) -> None:
        """Leave its place among the threads to another task; until `come_back`, for any thread."""
        if self._threads is not None:
            self._threads.step_aside(self.kind)

    def come_back(self) -> None:
        """Take a place among the threads again."""
        if self._threads is not None:
            self._threads.come_back(self.kind)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call back once; at once if the call is already done."""
        self._callbacks.append(callback)
        if self._done:
            self._notify()

    def _notify(self) -> None:
        # Two threads may run this: each callback is taken from the list only once.
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            callback(self)
