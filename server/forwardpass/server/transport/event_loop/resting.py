"""Connections that have read much rest until the others have been read."""

import asyncio
from collections import deque
from typing import Protocol

from forwardpass.server.engine.queue import expects_interactive

_PAUSE_S = 0.001
"""Pause between reads of batch calls while interactive ones are expected, in seconds: otherwise the
loop would always have something to read, and take half of the CPU from the runs that interactive
calls wait for."""
_READ_BYTES = 2**18
"""Least bytes of batch calls between two such pauses: up to 256 MB a second are read."""


class Reading(Protocol):
    """A connection as its rest sees it."""

    def read_on(self) -> None:
        """Read again."""


class Resting:
    """Lets connections with much to read take turns.

    libuv reads a socket up to 32 times in a row as long as there is more, and all sockets in one
    round: large messages of a few callers would hold every other caller for tens of milliseconds,
    and again in the next round.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._interactive: list[Reading] = []
        self._batch: deque[Reading] = deque()
        self._scheduled = False
        """Whether the next connection of `_batch` is to read on."""
        self._read_bytes = 0
        """Bytes of batch calls since the last pause."""

    def add(self, connection: Reading, size: int, *, batch: bool) -> None:
        """Let a connection, which has stopped reading, read on in one of the next rounds.

        size: Bytes that it has read. batch: Whether it sends calls of the class batch.
        """
        if batch:
            self._batch.append(connection)
            self._read_bytes += size
            if not self._scheduled:
                self._schedule()
        else:
            if not self._interactive:
                self._loop.call_soon(self._read_interactive)
            self._interactive.append(connection)

    def _schedule(self) -> None:
        self._scheduled = True
        if self._read_bytes >= _READ_BYTES and expects_interactive():
            self._read_bytes = 0
            self._loop.call_later(_PAUSE_S, self._read_batch)
        else:
            self._loop.call_soon(self._read_batch)

    def _read_interactive(self) -> None:
        connections, self._interactive = self._interactive, []
        for connection in connections:
            connection.read_on()

    def _read_batch(self) -> None:
        connection = self._batch.popleft()
        self._scheduled = False
        if self._batch:
            self._schedule()
        connection.read_on()
