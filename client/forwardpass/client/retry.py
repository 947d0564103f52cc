"""Whether a call that failed is made again, and after which pause."""

from dataclasses import dataclass
from threading import Lock

from forwardpass.client.errors import (
    ClientError,
    OverloadedError,
    ServerUnavailableError,
    TooLargeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how soon to call again if the server is unreachable or its queue is full.

    A prediction changes nothing on the server, so that calling again is always safe; a call
    that would fail again, such as one above a limit, is not repeated. A server that says when to
    come back (`grpc-retry-pushback-ms`, RetryInfo) is not called earlier.
    """

    attempts: int = 5
    """Maximum number of calls, the first included."""
    first_s: float = 0.1
    """Maximum first pause in seconds; each further one may be twice as long. Half is random."""
    max_s: float = 2.0
    """Maximum pause in seconds."""
    budget: int = 100
    """Maximum number of repeated calls of all callers of a client together; ten calls that succeed
    earn one back. It keeps clients from adding to the load of a server that is down."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: expected at least 1, got {self.attempts}")
        for name in ("first_s", "max_s", "budget"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


_EARNED = 0.1


class Retrier:
    """Applies a policy to the calls of one client; thread-safe."""

    def __init__(self, policy: Retry | None) -> None:
        """Begin with the whole budget; without a policy nothing is called again."""
        self._policy = policy
        self._full = 0.0 if policy is None else float(policy.budget)
        self._left = self._full
        self._lock = Lock()

    def succeeded(self) -> None:
        """Count a call that was answered."""
        # Most calls find the budget full, and need no lock to see that.
        if self._left < self._full:
            with self._lock:
                self._left = min(self._full, self._left + _EARNED)

    def pause_s(
        self, attempt: int, error: ClientError, left_s: float | None = None
    ) -> float | None:
        """Return how long to wait before the next call, None if there should not be one.

        attempt: the number of the call that ended in the error, from 1. left_s: the seconds left
        until the deadline, which must be longer than the pause; None for no deadline.

        Every pause is counted against the budget.
        """
        policy = self._policy
        if policy is None or attempt >= policy.attempts or not _is_passing(error):
            return None
        if error.retry_s is not None and error.retry_s < 0:
            return None
        longest = min(policy.max_s, policy.first_s * 2.0 ** (attempt - 1))
        # Imported here: it takes longer than most of this package.
        import random

        # Randomness keeps callers that failed together from calling again together.
        pause_s = longest * (0.5 + random.random() / 2)  # noqa: S311  # no secret
        if error.retry_s is not None:
            pause_s = error.retry_s * (1 + random.random() / 4)  # noqa: S311
        if left_s is not None and left_s <= pause_s:
            return None
        with self._lock:
            if self._left < 1:
                return None
            self._left -= 1
        return pause_s


def _is_passing(error: ClientError) -> bool:
    if isinstance(error, TooLargeError):
        return False
    return isinstance(error, ServerUnavailableError | OverloadedError)
