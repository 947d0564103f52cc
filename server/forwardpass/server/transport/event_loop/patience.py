"""The minimum speed of messages, and of callers that take their answers."""

BODY_S = 30.0
LEAST_BYTES_PER_S = 1024
TAKEN_BYTES = 2**20
"""What a caller has to take of its answers in a period, or all of them if they are less."""


class Patience:
    """Checks that enough bytes arrive in every `BODY_S`, however fast earlier ones were."""

    __slots__ = ("_from", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._from = 0

    def restart(self, now: float, came: int) -> None:
        """Start a new period; came: bytes so far."""
        self._since = now
        self._from = came

    def over(self, now: float, came: int) -> bool:
        """Return whether too few bytes arrived; came: bytes so far."""
        if came - self._from >= BODY_S * LEAST_BYTES_PER_S:
            self.restart(now, came)
        return now - self._since > BODY_S


class Taking:
    """Checks that a caller takes enough of what waits for it in every period."""

    __slots__ = ("_due", "_since")

    def __init__(self, now: float, taken: int, waiting: int) -> None:
        self.restart(now, taken, waiting)

    def restart(self, now: float, taken: int, waiting: int) -> None:
        """Start a new period; taken: bytes so far, waiting: bytes that it has not taken."""
        self._since = now
        self._due = taken + min(waiting, TAKEN_BYTES)

    def over(self, now: float, taken: int, waiting: int, period_s: float) -> bool:
        """Return whether it has taken too little."""
        if taken >= self._due:
            self.restart(now, taken, waiting)
        return now - self._since > period_s
