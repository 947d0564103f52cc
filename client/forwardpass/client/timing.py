"""Where the time of one call went."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from forwardpass.proto.timing import TRAILER, load_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The parts of one call, in microseconds; together they are the whole."""

    client_us: float
    """To check and write the request and to read the reply."""
    network_us: float
    """gRPC and sockets on both sides; the server's parts too where it does not tell them."""
    queue_us: float | None
    """The server's decoding, waiting and encoding; None where it does not tell."""
    compute_us: float | None
    """The network itself, in the server; None where it does not tell."""

    @classmethod
    def of(
        cls, *, client_ns: int, call_ns: int, trailers: Iterable[tuple[str, str | bytes]]
    ) -> Self:
        """Split the time of a call by what its trailing metadata say.

        Raises ValueError if the server's parts are no numbers.
        """
        client_us, call_us = client_ns / 1e3, call_ns / 1e3
        told = next((text for key, text in trailers if key == TRAILER), None)
        if not isinstance(told, str):
            return cls(client_us=client_us, network_us=call_us, queue_us=None, compute_us=None)
        parts = load_parts(told)
        compute_us = parts.pop("compute", 0.0)
        queue_us = sum(parts.values())
        return cls(
            client_us=client_us,
            network_us=call_us - queue_us - compute_us,
            queue_us=queue_us,
            compute_us=compute_us,
        )
