"""What is measured: networks, rows, callers, and how long."""

from dataclasses import dataclass

from benchmarks.field.peers import ECHO, OURS_GRPCIO, RAY_SERVE

CLOSED = "closed"
OPEN = {"open 50 %": 0.5}
"""Kinds of load besides: calls that come at a share of the server's own maximum."""
AT_OURS = "open, half of ours"
"""Another: calls that come at half of our own maximum, for servers that can answer as many."""


@dataclass(frozen=True)
class Case:
    """One request, sent in one way."""

    network: str
    rows: int
    callers: int = 0
    """In a closed loop; 0 where the loop is open."""
    load: str = CLOSED
    over: int = 0
    """Over how many connections the callers are spread; 0: 8 at most."""

    @property
    def connections(self) -> int:
        """Over how many connections the callers are spread."""
        return self.over or min(self.callers, 8)


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
    on_two_cores: tuple[Case, ...] = ()
    """What servers on two cores are measured with, and that alone."""
    leaves_out: frozenset[str] = frozenset()
    """Servers that are measured only when asked for."""

    def __post_init__(self) -> None:
        if self.rounds * self.repeats < 3:
            raise ValueError("a median takes three measurements")


ONE, MANY, SPREAD = Case("small", 1, 1), Case("small", 1, 256), Case("small", 1, 250, over=250)
SOME, LARGE, HUGE = Case("small", 1, 32), Case("large", 64, 32), Case("large", 1024, 2, over=1)
SATURATING = Case("large", 8, 32)
HALF, HALF_OF_OURS = Case("small", 1, load="open 50 %"), Case("small", 1, load=AT_OURS)

FULL = Grid(
    "full",
    closed=(
        *(ONE, SOME, MANY, SPREAD),
        *(Case("small", 64, 32), Case("large", 1, 32), SATURATING, LARGE, HUGE),
    ),
    open=(HALF, HALF_OF_OURS),
    rounds=5,
    repeats=1,
    seconds=0.4,
    open_seconds=1.0,
    on_two_cores=(SATURATING,),
    leaves_out=frozenset({ECHO, OURS_GRPCIO, RAY_SERVE}),
)

QUICK = Grid(
    "quick",
    closed=(SOME, LARGE),
    open=(HALF,),
    rounds=1,
    repeats=3,
    seconds=0.5,
    open_seconds=0.7,
    # Ray's starts alone would take a third of the two minutes.
    leaves_out=frozenset({ECHO, OURS_GRPCIO, RAY_SERVE}),
)
