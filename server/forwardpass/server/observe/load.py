"""What a transport has to do at one moment, for metrics."""

from typing import NamedTuple


class Load(NamedTuple):
    """Figures of one moment."""

    in_flight: int
    """Calls that have arrived and are not answered; messages of streams are calls."""
    waiting: int
    """Those that have not begun: they wait for a thread, or for a turn of the event loop."""
    oldest_ns: int
    """How long the first of those that have not begun has waited, in nanoseconds."""
    connections: int | None
    """Open connections; None if that cannot be found out."""
    certificate_expires_s: float | None
    """When the server's certificate expires, in seconds since the epoch; None without TLS."""
    shared: bool = False
    """Whether the connections are those of all processes of the server, not of one."""

    def with_that_of(self, other: "Load") -> "Load":
        """Return what two processes of one server have to do together."""
        connections = [each for each in (self.connections, other.connections) if each is not None]
        expiries = (self.certificate_expires_s, other.certificate_expires_s)
        return Load(
            in_flight=self.in_flight + other.in_flight,
            waiting=self.waiting + other.waiting,
            oldest_ns=max(self.oldest_ns, other.oldest_ns),
            connections=(max if self.shared else sum)(connections) if connections else None,
            certificate_expires_s=min(
                (each for each in expiries if each is not None), default=None
            ),
            shared=self.shared,
        )
