"""The parts of the time of one call."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from forwardpass.proto.timing import TRAILER, load_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The parts of one call, in microseconds; together they are the whole."""

    client_us: float
    """Time to check and write the request and to read the reply."""
    network_us: float
    """Time of gRPC and sockets on both sides, and the server's parts if it does not report them."""
    queue_us: float | None
    """Time of the server's decoding, waiting and encoding; None if it does not report it."""
    compute_us: float | None
    """Time of the network itself, in the server; None if it does not report it."""

    @classmethod
    def of(
        cls, *, client_ns: int, call_ns: int, trailers: Iterable[tuple[str, str | bytes]]
    ) -> Self:
        """Split the time of a call by its trailing metadata.

        Raises ValueError if the server's parts are not numbers.
        """
        client_us, call_us = client_ns / 1e3, call_ns / 1e3
        trailer = next((text for key, text in trailers if key == TRAILER), None)
        if not isinstance(trailer, str):
            return cls(client_us=client_us, network_us=call_us, queue_us=None, compute_us=None)
        parts = load_parts(trailer)
        compute_us = parts.pop("compute", 0.0)
        queue_us = sum(parts.values())
        return cls(
            client_us=client_us,
            network_us=call_us - queue_us - compute_us,
            queue_us=queue_us,
            compute_us=compute_us,
        )
