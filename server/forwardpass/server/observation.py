"""What is told of every ModelInfer call that has ended, to whoever wants to know: logs, traces."""

from collections.abc import Callable
from dataclasses import dataclass

from forwardpass.server.errors import STATUS, ServingError
from forwardpass.server.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A call that has ended; nothing in it is what the caller computed with."""

    origin: Origin
    caller: str = ""
    """Its name; empty where nobody was asked, or nobody is known."""
    model: str = ""
    """Empty where the call named none of ours."""
    version: str = ""
    rows: int = 0
    error: ServingError | None = None
    started_ns: int = 0
    """When it arrived, in nanoseconds since the epoch."""
    decode_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    encode_ns: int = 0
    """The parts of its time, one after the other."""

    @property
    def code(self) -> str:
        """The name of its gRPC status code."""
        return "OK" if self.error is None else STATUS[type(self.error)].name

    @property
    def total_ns(self) -> int:
        """The parts together."""
        return self.decode_ns + self.queue_ns + self.compute_ns + self.encode_ns


Observer = Callable[[Observation], None]
"""Is called from the thread of the call, before its answer is sent: it has to be quick."""
