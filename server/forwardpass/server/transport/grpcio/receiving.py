"""Messages on their way over grpcio: in limited memory and time, and without taking threads.

grpcio hands a message over when it is whole, and says nothing of it before, not even its size: a
thread has to wait for it. One more thread looks after those that wait for long: others stand in
for them, they have a maximum of time, and some of them are refused where memory runs out.
"""

from collections import deque
from collections.abc import Callable, Iterator
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

import grpc

from forwardpass.server.errors import ArrivalsFullError, MemoryFullError, ServingError, Status
from forwardpass.server.process.memory import give_back, room
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.threads import Task, current_task

LARGE_BYTES = 2**16
"""Minimum size of a message that is counted, in bytes: there are no more smaller ones than
threads."""
_TICK_S = 0.02
"""A message that takes longer is looked after."""
_MAX_SLOW = 128
"""Maximum messages of unary calls that others stand in for: each has a thread."""
_SPARE_SHARE = 4
_SPARE_BYTES = 2**28
"""So much of the memory's limit is kept free, or that share of it if it is less: what may arrive
between two looks."""
_PROBES = 2
"""So many probes that are slow are not refused for want of memory."""
_ANSWERS_SHARE = 8
"""This share of the limit is for answers however much requests take, or none would be answered."""
_STREAMS_EVERY = 10
"""Open streams are a reason to look at the memory in so many looks."""
_FAIR_S = 10.0
"""One that takes longer leaves its place to others where there is no memory for all."""
_RETRY_S = 0.5
"""When a caller may try again that found no memory, in seconds."""


class Receiving:
    """The messages that arrive, and the memory of those that have arrived and are not answered."""

    def __init__(self, max_bytes: int, each: int, max_s: float) -> None:
        """Begin.

        max_bytes: Of unanswered requests. each: What a message may take until it is here. max_s:
        For it to arrive.
        """
        self._limit = max_bytes
        self._each = each
        self._max_s = max_s
        self._used = 0
        self._answers = 0
        """Bytes of answers in it."""
        self._left: deque[int] = deque()
        """Sizes to subtract from it; any thread may append, also while it collects garbage."""
        self._answers_left: deque[int] = deque()
        """The same for answers."""
        self.on_look: Callable[[], None] | None = None
        """Called several times a second."""
        self._short = False
        """Whether the memory of the container is nearly used up by messages that arrive."""
        # Entered and left by one step each, without a lock that every call would take.
        self._coming: set[_Coming] = set()
        # Guards what is below, and `_used`.
        self._lock = Lock()
        self._slow: dict[_Coming, None] = {}
        """Those that take long, the oldest first."""
        self._looks = 0
        self._stopped = Event()

    def start(self) -> None:
        """Start to look after messages."""
        Thread(target=self._watch, name="receiving", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    @property
    def used(self) -> int:
        """Bytes of large messages that have arrived and are not answered, and of answers."""
        with self._lock:
            self._settle()
            return self._used

    def check(self) -> None:
        """Raise MemoryFullError if no further request may arrive."""
        if self._short or (self._used > self._limit and self.used > self._limit):
            raise self.refusal()

    def hold(self, size: int) -> None:
        """Count a message that has arrived, until `let_go`; raises as `check` does."""
        if self.used + size > self._limit:
            raise self.refusal()
        with self._lock:
            self._used += size

    def let_go(self, size: int) -> None:
        """Subtract a message."""
        self._left.append(size)

    def promise(self, size: int) -> bool:
        """Count an answer, until `forget`; return False if there is no room.

        A single answer has room whatever its size.
        """
        with self._lock:
            self._settle()
            used, answers = self._used + size, self._answers + size
            if used > self._limit and size < answers > self._limit // _ANSWERS_SHARE:
                return False
            self._used, self._answers = used, answers
            return True

    def forget(self, size: int) -> None:
        """Subtract an answer."""
        self._answers_left.append(size)

    def _settle(self) -> None:
        while self._left:
            self._used -= self._left.popleft()
        while self._answers_left:
            size = self._answers_left.popleft()
            self._used -= size
            self._answers -= size

    def next(
        self,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        *,
        timed: bool = True,
        probe: bool = False,
    ) -> bytes:
        """Wait for a call's next message.

        timed: Whether it has a maximum of time. probe: Whether a refusal looks like a dead server.
        Raises StopIteration if there is none, and grpc.RpcError if the caller is gone.
        BadMessageError: it took too long. ArrivalsFullError: there is no memory for it.
        """
        coming = _Coming(context, current_task(), timed, probe)
        self._coming.add(coming)
        try:
            message: Any = next(messages)
        finally:
            try:
                self._coming.remove(coming)
            except KeyError:
                self._back(coming)
        if type(message) is not bytes:
            raise message
        return message

    def only(
        self, messages: Iterator[bytes], context: grpc.ServicerContext, *, probe: bool = False
    ) -> bytes:
        """Wait for the one message of a call.

        Raises as `next` does, but BadMessageError if there is none.
        """
        try:
            return self.next(messages, context, probe=probe)
        except StopIteration:
            raise BadMessageError("expected one message, got none", Status.UNIMPLEMENTED) from None

    def refusal(self) -> MemoryFullError:
        """Return the error of a call for which there is no memory."""
        return MemoryFullError(self._used, self._limit, _RETRY_S)

    def _back(self, coming: "_Coming") -> None:
        with self._lock:
            del self._slow[coming]
        if coming.task is not None:
            coming.task.come_back()

    def _watch(self) -> None:
        seen: set[_Coming] = set()
        while not self._stopped.wait(_TICK_S):
            for coming in self._coming & seen if seen else ():
                self._set_aside(coming)
            if self._slow:
                self._look(list(self._slow))
            else:
                self._short = False
            seen = set(self._coming)
            if self.on_look is not None:
                self.on_look()

    def _set_aside(self, coming: "_Coming") -> None:
        """Have another thread stand in for one whose message takes long."""
        with self._lock:
            try:
                self._coming.remove(coming)
            except KeyError:
                return
            self._slow[coming] = None
            # Before its thread may come back, which needs the lock.
            if coming.task is not None:
                coming.task.step_aside()

    def _look(self, slow: "list[_Coming]") -> None:
        """End what takes too long, and what there may be no memory for."""
        now = monotonic()
        timed = [coming for coming in slow if coming.timed]
        for coming in timed:
            if now - coming.since > self._max_s:
                late = "the request arrives too slowly"
                coming.end(BadMessageError(late, Status.DEADLINE_EXCEEDED))
        probes = [coming for coming in timed if coming.probe][:_PROBES]
        timed = [coming for coming in timed if coming not in probes]
        # Most streams are idle: they are no reason to look all the time.
        self._looks += 1
        streams = self._looks % _STREAMS_EVERY == 0
        self._short, places = self._room(len(slow if streams else timed))
        if len(timed) > places:
            # What others freed is theirs until it is given back.
            give_back()
            self._short, places = self._room(len(timed))
        full = ArrivalsFullError(places, _RETRY_S)
        over = max(0, len(timed) - places)
        # Those that had their time, or else the youngest, which have brought least.
        patient = min(over, sum(now - coming.since > _FAIR_S for coming in timed))
        for coming in timed[:patient] + timed[len(timed) - (over - patient) :]:
            coming.end(full)
        if self._short:
            # Streams, too, of which nobody knows whether they send anything.
            for coming in slow[len(slow) // 2 :]:
                coming.end(full)

    def _room(self, slow: int) -> tuple[bool, int]:
        """Return whether memory is short, and how many messages may go on arriving."""
        least = max(1, (self._limit - self.used) // self._each)
        # They are within the requests' memory. Looking at what is left takes half a millisecond.
        found = None if slow <= least else room()
        if found is None:
            return False, min(max(least, slow), _MAX_SLOW)
        free = found.free - min(found.limit // _SPARE_SHARE, _SPARE_BYTES)
        return free < 0, min(max(least, free // self._each), _MAX_SLOW)


class _Coming:
    """A message that a thread waits for."""

    __slots__ = ("_context", "probe", "since", "task", "timed")

    def __init__(
        self, context: grpc.ServicerContext, task: Task | None, timed: bool, probe: bool
    ) -> None:
        self._context: Any = context
        self.task = task
        """The task that waits, if others can stand in for it."""
        self.timed = timed
        self.probe = probe
        self.since = monotonic()

    def end(self, error: ServingError | BadMessageError) -> None:
        """Have its thread go on with an error in place of the message."""
        try:
            state = self._context._state
            with state.condition:
                state.request = error
                state.condition.notify_all()
        except AttributeError:
            # Another grpcio than those we know: the caller gets no reason.
            self._context.cancel()
