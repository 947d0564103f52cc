"""The state that a server and its connections share."""

import logging
import random
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Protocol

from forwardpass.server.config import Config
from forwardpass.server.health import Health
from forwardpass.server.observe.load import Load
from forwardpass.server.process.incidents import Incident, Incidents
from forwardpass.server.transport.event_loop.arrivals import RequestArrivals
from forwardpass.server.transport.event_loop.memory import AnswerReader, RequestMemory
from forwardpass.server.transport.event_loop.methods import Method, Work
from forwardpass.server.transport.event_loop.resting import Resting
from forwardpass.server.transport.event_loop.turn import Turn, Waiting
from forwardpass.server.transport.http2.limits import ConnectionLimits

logger = logging.getLogger(__name__)

_READ_BYTES = 2**18
"""Maximum size of a read from a socket, in bytes."""


class Connected(Waiting, AnswerReader, Protocol):
    """A connection as the server sees it."""

    @property
    def in_flight(self) -> int:
        """The number of calls that are not answered; for any thread."""

    @property
    def waiting_since(self) -> int | None:
        """When the first call arrived that is not in a turn yet; for any thread."""

    @property
    def unanswered(self) -> bool:
        """Whether a call is in flight, or an answer is not written yet."""

    def tick(self, now: float) -> None:
        """Check all time limits."""

    def leave(self) -> None:
        """Announce that the connection ends."""

    def close(self) -> None:
        """Close once written data is sent."""


class ServerState:
    """The connections, with the settings, methods and memory that they share.

    Only for the thread of the event loop.
    """

    __slots__ = (
        "_incidents",
        "_max_age_s",
        "_max_connections",
        "arrivals",
        "batch_waiting",
        "buffer",
        "busy",
        "closed",
        "connections",
        "grace_s",
        "greeting",
        "health",
        "limits",
        "max_backlog",
        "max_message_bytes",
        "max_receive_s",
        "max_unread_s",
        "memory",
        "methods",
        "read",
        "resting",
        "turn",
        "waiting",
    )

    def __init__(
        self,
        config: Config,
        methods: Mapping[bytes, Method],
        arrivals: RequestArrivals,
        turn: Turn,
        incidents: Incidents,
        read: Work,
        resting: Resting,
        memory: RequestMemory,
        health: Health,
    ) -> None:
        """Begin without connections.

        methods: by path. read: Runs what takes long to read, few at a time. memory: Of requests
        and answers.
        """
        self.methods = methods
        self.arrivals = arrivals
        self.turn = turn
        self.read = read
        self.resting = resting
        self.max_message_bytes = config.max_message_bytes
        self.max_receive_s = config.max_receive_s
        self.max_unread_s = config.max_unread_s
        self.limits = ConnectionLimits(max_streams=config.max_calls_per_connection)
        self.grace_s = config.grace_s
        self.memory = memory
        self.health = health
        self.buffer = memoryview(bytearray(_READ_BYTES))
        """The buffer that all connections read into."""
        self.closed = False
        """Whether new calls are answered UNAVAILABLE."""
        self.connections: set[Connected] = set()
        memory.readers = lambda: self.connections
        self.greeting: set[Connected] = set()
        """Connections that were accepted and are not made: over TLS, the handshakes."""
        self.busy: set[Connected] = set()
        """Connections with calls that may run out of time."""
        self._incidents = incidents
        self.max_backlog = config.max_backlog
        self.waiting = 0
        """Interactive calls that were read and are not in a turn yet, of all connections."""
        self.batch_waiting = 0
        """The same for calls of the class batch."""
        self._max_connections = config.max_connections
        self._max_age_s = config.max_connection_age_s

    def load(self, certificate_expires_s: float | None) -> Load:
        """Return what there is to do now; for any thread."""
        turn = self.turn
        in_flight = 0
        since = [] if turn.running_since is None else [turn.running_since]
        connections = list(self.connections)
        for connection in connections:
            in_flight += connection.in_flight
            first_ns = connection.waiting_since
            if first_ns is not None:
                since.append(first_ns)
        return Load(
            in_flight=in_flight,
            waiting=self.waiting + self.batch_waiting + turn.running,
            oldest_ns=perf_counter_ns() - min(since) if since else 0,
            connections=len(connections),
            certificate_expires_s=certificate_expires_s,
        )

    def greet(self, connection: Connected) -> bool:
        """Add a connection that is not made yet; return False if there are too many."""
        if len(self.connections) + len(self.greeting) >= self._max_connections:
            return False
        self.greeting.add(connection)
        return True

    def admit(self, connection: Connected) -> bool:
        """Add a connection; return False if there are too many."""
        self.greeting.discard(connection)
        if len(self.connections) >= self._max_connections:
            return False
        self.connections.add(connection)
        return True

    def dismiss(self, connection: Connected) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self.busy.discard(connection)

    def handshake_failed(self, peer: str, why: str) -> None:
        """Count and log a TLS handshake that failed."""
        self._incidents.report(
            Incident.HANDSHAKE, logger, "TLS handshake with %s failed: %s", peer, why
        )

    def connection_end(self, now: float) -> float | None:
        """Return when a connection that begins now is asked to end; None: never."""
        age_s = self._max_age_s
        # With jitter, or clients that connect together would always reconnect together.
        return None if age_s is None else now + age_s * random.uniform(0.9, 1.1)  # noqa: S311
