"""What is measured: networks, rows, callers, and how long."""

from dataclasses import dataclass

from benchmarks.field.peers import RAY_SERVE

CLOSED = "closed"
OPEN = {"open 50 %": 0.5, "open 80 %": 0.8}
"""Kinds of load besides: calls that come at a share of the server's own maximum."""


@dataclass(frozen=True)
class Case:
    """One request, sent in one way."""

    network: str
    rows: int
    callers: int = 0
    """In a closed loop; 0 where the loop is open."""
    load: str = CLOSED

    @property
    def connections(self) -> int:
        """Over how many connections the callers are spread."""
        return min(self.callers, 8)


@dataclass(frozen=True)
class Grid:
    """The cases, and how often and how long each is measured."""

    name: str
    closed: tuple[Case, ...]
    open: tuple[Case, ...]
    rounds: int
    """How often every server is started, one after the other."""
    repeats: int
    """How often each case is measured in a round."""
    seconds: float
    """Of load in a measurement of a closed loop."""
    open_seconds: float
    leaves_out: frozenset[str] = frozenset()
    """Servers that are measured only when asked for."""

    def __post_init__(self) -> None:
        if self.rounds * self.repeats < 3:
            raise ValueError("a median takes three measurements")


FULL = Grid(
    "full",
    closed=tuple(
        Case(network, rows, callers)
        for network in ("tiny", "small", "large")
        for rows in (1, 8, 64, 1024)
        for callers in (1, 32, 256)
        # 256 calls of 1,024 rows in flight are 800 MB of nothing but queue.
        if rows < 1024 or callers < 256
    ),
    open=tuple(
        Case(network, rows, load=load)
        for network, rows in (("tiny", 1), ("small", 1), ("small", 64), ("large", 1), ("large", 64))
        for load in OPEN
    ),
    rounds=3,
    repeats=1,
    seconds=0.6,
    open_seconds=1.2,
)

QUICK = Grid(
    "quick",
    closed=(Case("small", 1, 32), Case("large", 64, 32)),
    open=(Case("small", 1, load="open 50 %"),),
    rounds=1,
    repeats=3,
    seconds=0.5,
    open_seconds=0.7,
    # Its starts alone would take a third of the two minutes.
    leaves_out=frozenset({RAY_SERVE}),
)
