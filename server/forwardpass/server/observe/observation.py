"""The record of an ended ModelInfer call that logs and traces receive."""

from collections.abc import Callable
from dataclasses import dataclass

from forwardpass.server.errors import STATUS, ServingError, Status
from forwardpass.server.observe.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A call that has ended; holds none of the caller's data."""

    origin: Origin
    caller: str = ""
    """Name of the caller; empty without authentication, or if it failed."""
    model: str = ""
    """Name of the model; empty if the call named an unknown one."""
    version: str = ""
    rows: int = 0
    error: ServingError | None = None
    started_ns: int = 0
    """Arrival of the call, in nanoseconds since the epoch."""
    receive_ns: int = 0
    """From the first byte to the last one."""
    decode_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    encode_ns: int = 0
    """Last of the five phases of the call."""

    @property
    def status(self) -> Status:
        """The status that the call ended with."""
        return Status.OK if self.error is None else STATUS[type(self.error)]

    @property
    def total_ns(self) -> int:
        """Sum of the phases."""
        phases_ns = self.decode_ns + self.queue_ns + self.compute_ns + self.encode_ns
        return self.receive_ns + phases_ns


Observer = Callable[[Observation], None]
"""Called in the call's thread before the answer is sent, so it must be fast."""
