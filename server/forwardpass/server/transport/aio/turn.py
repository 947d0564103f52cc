"""Once a turn of the event loop all calls that were read are answered, as one batch."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forwardpass.server.transport.aio.calls import ReadCall

if TYPE_CHECKING:
    from forwardpass.server.transport.aio.protocol import ClientConnection

_MAX_CALLS = 2048
"""Of a turn: the loop has to look at its sockets now and then."""


class Turn:
    """Collects the connections that have calls or output until the loop has read them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, infer: Callable[[list[Any]], None]) -> None:
        """Prepare; infer answers calls, at once or later."""
        self._loop = loop
        self._infer = infer
        self._waiting: list[ClientConnection] = []
        self._dirty: list[ClientConnection] = []
        self._scheduled = False

    def wait(self, connection: "ClientConnection") -> None:
        """Take a connection's calls in the next turn."""
        self._waiting.append(connection)
        self._schedule()

    def flush_later(self, connection: "ClientConnection") -> None:
        """Write to a connection in the next turn."""
        self._dirty.append(connection)
        self._schedule()

    def _schedule(self) -> None:
        # The loop reads every socket that has something before it comes to this.
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        waiting, self._waiting = self._waiting, []
        calls: list[ReadCall] = []
        for position, connection in enumerate(waiting):
            if len(calls) >= _MAX_CALLS:
                self._waiting += waiting[position:]
                self._schedule()
                break
            calls += connection.take_calls()
        try:
            if calls:
                self._infer(calls)
        finally:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.flush()
