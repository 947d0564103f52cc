"""Token bucket: how often a peer may do something."""

from collections.abc import Callable


class Allowance:
    """A bucket that holds `capacity` and refills by `per_s` a second."""

    __slots__ = ("_capacity", "_clock", "_filled", "_left", "_per_s")

    def __init__(self, capacity: float, per_s: float, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._per_s = per_s
        self._clock = clock
        self._left = capacity
        self._filled = clock()

    def spend(self, cost: float = 1) -> bool:
        """Take from the bucket; return False if not enough is left."""
        if self._left < cost:
            now = self._clock()
            self._left = min(self._capacity, self._left + (now - self._filled) * self._per_s)
            self._filled = now
        self._left -= cost
        return self._left >= 0

    def earn(self, amount: float = 1) -> None:
        """Put something back, for useful work of the peer."""
        self._left = min(self._capacity, self._left + amount)
