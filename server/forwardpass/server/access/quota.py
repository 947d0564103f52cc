"""How much of the server one caller may use: calls a second, and calls in flight."""

from collections.abc import Callable
from threading import Lock
from time import monotonic

from forwardpass.server.errors import CallRateError, CallShareError

_SHARE_RETRY_S = 0.05
"""When a caller with too many calls in flight may try again, in seconds."""

NewQuota = Callable[[str, str, float | None, int | None], "Quota"]
"""Makes the quota of what a caller shows, its name, maximum calls a second and in flight."""


class Quota:
    """The limits of one token or certificate, and what is used of them; thread-safe.

    The rate is that of a bucket that holds the calls of one second, and of one call at least: so
    many may come at once.
    """

    def __init__(self, caller: str, calls_per_s: float | None, max_in_flight: int | None) -> None:
        """Begin with a full bucket; None: no such limit."""
        self._caller = caller
        self.limits = calls_per_s, max_in_flight
        """Maximum calls a second, and maximum calls in flight."""
        self._lock = Lock()
        self._most = 0.0 if calls_per_s is None else max(1.0, calls_per_s)
        self._left = self._most
        self._filled = monotonic()
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Calls that have entered and not left."""
        return self._in_flight

    def enter(self) -> None:
        """Begin a call; `leave` has to follow.

        Raises CallShareError or CallRateError; then nothing has begun.
        """
        with self._lock:
            self._take()

    def _take(self) -> None:
        """Take a call of what is left; whoever calls this holds a lock."""
        calls_per_s, max_in_flight = self.limits
        if max_in_flight is not None and self._in_flight >= max_in_flight:
            raise CallShareError(self._caller, max_in_flight, _SHARE_RETRY_S)
        if calls_per_s is not None:
            now = monotonic()
            left = min(self._most, self._left + (now - self._filled) * calls_per_s)
            self._filled, self._left = now, left
            if left < 1:
                raise CallRateError(self._caller, calls_per_s, (1 - left) / calls_per_s)
            self._left = left - 1
        self._in_flight += 1

    def leave(self) -> None:
        """End a call."""
        with self._lock:
            self._in_flight -= 1


def own_quota(key: str, caller: str, calls_per_s: float | None, max_in_flight: int | None) -> Quota:
    """Make a quota of this process alone."""
    del key
    return Quota(caller, calls_per_s, max_in_flight)
