"""Calls that ended before the model that answers them was known."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from forwardpass.server.errors import STATUS, ServingError, Status


class Refusals:
    """Counts them by model and status; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, Status]] = Counter()

    def count(self, error: ServingError, model: str = "") -> None:
        """Count one; model is empty where the caller named none of ours: names cost memory."""
        with self._lock:
            self._counts[model, STATUS[type(error)]] += 1

    def read(self) -> Mapping[tuple[str, Status], int]:
        """Return the counts as they are now."""
        with self._lock:
            return dict(self._counts)
