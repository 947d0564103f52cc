"""Calls that ended before their model was known, and calls that were shed for lack of room."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from forwardpass.server.errors import (
    STATUS,
    ArrivalsFullError,
    BacklogFullError,
    CallRateError,
    CallShareError,
    MemoryFullError,
    QueueFullError,
    ServingError,
    Status,
    TooManyStreamsError,
)

REASONS: Mapping[type[ServingError], str] = {
    BacklogFullError: "backlog",
    QueueFullError: "queue",
    MemoryFullError: "memory",
    ArrivalsFullError: "memory",
    TooManyStreamsError: "streams",
    CallRateError: "rate",
    CallShareError: "share",
}
"""Why a call is shed: the server has no room, or its caller has used what it may."""


class Refusals:
    """Counts refused calls by model and status, and shed ones by reason; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, Status]] = Counter()
        self._shed: Counter[str] = Counter()

    def count(self, error: ServingError, model: str = "") -> None:
        """Count a call; pass an empty model for an unknown name, since each name takes memory."""
        with self._lock:
            self._counts[model, STATUS[type(error)]] += 1
        self.shed(error)

    def shed(self, error: ServingError, calls: int = 1) -> None:
        """Count calls that are counted elsewhere, if they are shed."""
        reason = REASONS.get(type(error))
        if reason is not None:
            with self._lock:
                self._shed[reason] += calls

    def read(self) -> Mapping[tuple[str, Status], int]:
        """Return the counts as they are now."""
        with self._lock:
            return dict(self._counts)

    def read_shed(self) -> Mapping[str, int]:
        """Return how many calls were shed for each reason, those with none included."""
        with self._lock:
            return {reason: self._shed[reason] for reason in REASONS.values()}
