"""What a server says of all that it serves: its models' states, and what they have answered."""

from dataclasses import dataclass
from typing import Self

from forwardpass.proto import inference_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One version of a model in a server's repository, from RepositoryIndex."""

    name: str
    version: str
    """Empty where the server lists a model without its versions."""
    state: str
    """`READY`, `UNAVAILABLE`, `LOADING` and so on; empty for one that was never loaded."""
    reason: str
    """Why it is not ready; empty if it is."""

    @classmethod
    def from_message(cls, message: pb.RepositoryIndexResponse.ModelIndex) -> Self:
        """Take over the message; MLServer's `State.READY` is `READY`."""
        return cls(
            name=message.name,
            version=message.version,
            state=message.state.removeprefix("State."),
            reason=message.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatistics:
    """What one version of a model has done since it was loaded, from ModelStatistics."""

    name: str
    version: str
    answered: int
    """Calls that were answered."""
    failed: int
    """Calls that ended in an error."""
    rows: int
    """Rows of the calls answered."""
    runs: int
    """Runs of the network: fewer than calls where calls ran together."""
    total_ns: int
    """From arrival to answer, summed over the calls answered."""
    queue_ns: int
    """The part of it spent waiting."""
    compute_ns: int
    """The part of it spent in the network, its inputs and outputs included."""
    last_ms: int
    """When the last call came, in milliseconds since 1970; 0 for never."""

    @classmethod
    def from_message(cls, message: pb.ModelStatistics) -> Self:
        """Take over the counters of a message."""
        stats = message.inference_stats
        return cls(
            name=message.name,
            version=message.version,
            answered=stats.success.count,
            failed=stats.fail.count,
            rows=message.inference_count,
            runs=message.execution_count,
            total_ns=stats.success.ns,
            queue_ns=stats.queue.ns,
            compute_ns=stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns,
            last_ms=message.last_inference,
        )
