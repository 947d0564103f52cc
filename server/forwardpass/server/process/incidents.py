"""What goes wrong beside calls: counted always, logged at a limited rate."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from time import monotonic

LINES_PER_S = 10
"""Maximum lines a second that the log has of one kind: a flood of them would hide all others."""


class Incident(StrEnum):
    """The kinds."""

    ACCEPT = "accept"
    """A connection could not be accepted."""
    HANDSHAKE = "handshake"
    """A TLS handshake failed."""
    DROPPED_LINE = "dropped line"
    """A line of the log was dropped, because stderr was not read."""
    UNAUTHENTICATED = "unauthenticated"
    """A call without valid credentials."""
    PERMISSION_DENIED = "permission denied"
    """A call that its caller has no permission for, or that the operator does not allow."""


@dataclass(slots=True)
class _Tally:
    count: int = 0
    second: float = 0.0
    """When the current second began, on the clock of time.monotonic."""
    logged: int = 0
    """Lines in the current second."""
    unlogged: int = 0
    """Incidents since the last line."""


def others(unlogged: int) -> str:
    """Return what a line says of those before it that were not logged."""
    return f" ({unlogged} more before it were not logged)" if unlogged else ""


class Incidents:
    """Counts incidents by kind; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tallies = {kind: _Tally() for kind in Incident}

    def count(self, kind: Incident, times: int = 1) -> int | None:
        """Count, and return whether to log it.

        None: do not. A number: do, and say that so many before it were not.
        """
        now = monotonic()
        with self._lock:
            tally = self._tallies[kind]
            tally.count += times
            if now - tally.second >= 1.0:
                tally.second, tally.logged = now, 0
            if tally.logged >= LINES_PER_S:
                tally.unlogged += times
                return None
            tally.logged += 1
            unlogged, tally.unlogged = tally.unlogged, 0
            return unlogged

    def report(self, kind: Incident, logger: logging.Logger, text: str, *values: object) -> None:
        """Count, and log a warning unless there were too many."""
        unlogged = self.count(kind)
        if unlogged is not None:
            logger.warning(text + others(unlogged), *values)

    def total(self, kind: Incident) -> int:
        """Return how often it has happened."""
        return self._tallies[kind].count
