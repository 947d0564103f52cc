"""The memory that requests take before they are answered, of all connections together."""

from forwardpass.server.transport.status import Outcome

_RESOURCE_EXHAUSTED = 8


class RequestMemory:
    """Counts the bytes of requests that are not whole, and of large ones that are not answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    @property
    def full(self) -> bool:
        """Whether there is more than is allowed."""
        return self.used > self._limit

    def refusal(self) -> Outcome:
        """Return how the call ends that is too much."""
        return Outcome(
            _RESOURCE_EXHAUSTED,
            f"requests that are not answered yet take {self.used} bytes of the server's memory, "
            f"above {self._limit}; back off and try again",
        )
