"""How slowly a message may come."""

BODY_S = 30.0
LEAST_BYTES_PER_S = 1024


class Patience:
    """Watches that so many bytes come in every `BODY_S`, however quickly others came before."""

    __slots__ = ("_from", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._from = 0

    def restart(self, now: float, came: int) -> None:
        """Wait anew; came: bytes until now."""
        self._since = now
        self._from = came

    def over(self, now: float, came: int) -> bool:
        """Return whether too little came."""
        if came - self._from >= BODY_S * LEAST_BYTES_PER_S:
            self.restart(now, came)
        return now - self._since > BODY_S
