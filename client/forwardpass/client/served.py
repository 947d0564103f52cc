"""The states of a server's models, and the counters of their calls."""

from dataclasses import dataclass
from typing import Self

from forwardpass.proto import inference_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One version of a model in a server's repository, from RepositoryIndex."""

    name: str
    version: str
    """The version; empty if the server lists a model without its versions."""
    state: str
    """The state: `READY`, `UNAVAILABLE`, `LOADING`, ...; empty for one that was never loaded."""
    reason: str
    """The reason why it is not ready; empty if it is."""

    @classmethod
    def from_message(cls, message: pb.RepositoryIndexResponse.ModelIndex) -> Self:
        """Read a message; MLServer's `State.READY` becomes `READY`."""
        return cls(
            name=message.name,
            version=message.version,
            state=message.state.removeprefix("State."),
            reason=message.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatistics:
    """The counters of one version of a model since it was loaded, from ModelStatistics."""

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
    """Time from arrival to answer, summed over the calls answered."""
    queue_ns: int
    """The part of total_ns spent waiting."""
    compute_ns: int
    """The part of total_ns spent in the network, its inputs and outputs included."""
    last_ms: int
    """The time of the last call, in milliseconds since 1970; 0 if there was none."""

    @classmethod
    def from_message(cls, message: pb.ModelStatistics) -> Self:
        """Read the counters of a message."""
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
