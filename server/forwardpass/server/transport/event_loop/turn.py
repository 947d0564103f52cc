"""Once per turn of the event loop, all calls that were read are answered as one batch."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, Protocol

from forwardpass.server.engine.queue import expects_interactive
from forwardpass.server.rpc.infer import Times
from forwardpass.server.transport.event_loop.calls import ReadCall

_MAX_CALLS = 2048
"""Maximum number of calls in a turn: the loop has to read its sockets regularly."""
_BATCH_NS, _BESIDE_NS = 1_000_000, 40_000
"""Expected time of the calls of the class batch in a turn, and while interactive ones are expected,
which wait for them. One is taken in any case."""
_WEIGHT = 0.25
"""Weight of the latest turn in what a call is expected to take."""


class Waiting(Protocol):
    """A connection as a turn sees it."""

    def take_calls(self) -> list[ReadCall]:
        """Return the calls for this turn."""

    def flush(self) -> None:
        """Write pending output."""


def respond(calls: Sequence[ReadCall]) -> None:
    """Send the answers of calls that have them."""
    for call in calls:
        call.respond()


class Turn:
    """Collects the connections that have calls or output until the loop has read them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, infer: Callable[[list[Any]], None]) -> None:
        """Prepare; infer: answers calls, at once or later."""
        self._loop = loop
        self._infer = infer
        self._waiting: list[Waiting] = []
        self._dirty: list[Waiting] = []
        self._scheduled = False
        self._call_ns = 0.0
        """What a call of a turn with some of the class batch takes on the loop, lately."""
        self.times: Times | None = None
        """When what is read in this turn arrived: the same object for all calls; see `begin`."""
        self.batch_room = 0
        """How many more calls of the class batch the turn may take."""
        self.running = 0
        """Number of calls that the running turn answers."""
        self.running_since: int | None = None
        """When the running turn took them, on the clock of time.perf_counter_ns."""

    def begin(self) -> Times:
        """Return the `times` of this turn at its first call."""
        if not self._scheduled:
            self._schedule()
        now_ns = perf_counter_ns()
        self.times = now_ns, now_ns
        return self.times

    def wait(self, connection: Waiting) -> None:
        """Schedule a connection's calls for the next turn."""
        self._waiting.append(connection)
        if not self._scheduled:
            self._schedule()

    def flush_later(self, connection: Waiting) -> None:
        """Schedule a connection's output for the next turn."""
        self._dirty.append(connection)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        # The loop reads every ready socket before it runs this.
        self._scheduled = True
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        try:
            self._answer()
        finally:
            # Not before: every answer adds its connection to `_dirty`, and would begin a turn.
            self._scheduled = False
            if self._waiting or self._dirty:
                self._schedule()

    def _answer(self) -> None:
        self.times = None
        now_ns = perf_counter_ns()
        room = self.batch_room = self._batch_room()
        waiting, self._waiting = self._waiting, []
        calls: list[ReadCall] = []
        for position, connection in enumerate(waiting):
            if len(calls) >= _MAX_CALLS:
                self._waiting += waiting[position:]
                break
            calls += connection.take_calls()
        self.running, self.running_since = len(calls), now_ns
        try:
            if calls:
                self._infer(calls)
        finally:
            self.running, self.running_since = 0, None
            if self.batch_room < room:
                each_ns = (perf_counter_ns() - now_ns) / len(calls)
                self._call_ns += _WEIGHT * (each_ns - self._call_ns)
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.flush()

    def _batch_room(self) -> int:
        """Return how many calls of the class batch a turn may take, for all connections."""
        if not self._call_ns:
            return 1
        room_ns = _BESIDE_NS if expects_interactive() else _BATCH_NS
        return min(max(1, int(room_ns / self._call_ns)), _MAX_CALLS)
