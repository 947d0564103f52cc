"""What has to hold between ours and the field, and whether it does in a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.field.grid import Case
from benchmarks.field.peers import MLSERVER, NAIVE, OURS
from benchmarks.field.results import Figure, Results

_SMALL, _LARGE = Case("small", 1, 32), Case("large", 64, 32)
_HALF = Case("small", 1, load="open 50 %")


@dataclass(frozen=True)
class Claim:
    """A figure of one of our servers, and its bound."""

    text: str
    bound: float
    at_least: bool
    measured: Callable[[Results, str], Figure | None]
    """Of a run and a server's name."""

    def holds(self, figure: Figure) -> bool:
        """Return whether the median is within the bound."""
        return figure.median >= self.bound if self.at_least else figure.median <= self.bound


@dataclass(frozen=True)
class Verdict:
    """A claim as a run bears it out."""

    claim: Claim
    server: str
    figure: Figure | None
    """None if the run did not measure it."""

    @property
    def word(self) -> str:
        """Return `pass`, `fail`, or that it was not measured."""
        if self.figure is None:
            return "not measured"
        return "pass" if self.claim.holds(self.figure) else "fail"


def tail(results: Results, server: str) -> Figure | None:
    """Return p99 over p50 of a server at half of its own maximum."""
    p50, p99 = (results.values(server, _HALF, metric) for metric in ("p50_us", "p99_us"))
    return Figure.of({turn: p99[turn] / p50[turn] for turn in p50})


def _later(results: Results, server: str) -> Figure | None:
    ours, naive = (results.values(name, "start", "start_s") for name in (server, NAIVE))
    return Figure.of({turn: ours[turn] - naive[turn] for turn in ours if turn in naive})


CLAIMS = (
    Claim(
        "calls per second over MLServer's: 30-64-32-2, 1 row, 32 callers",
        4.0,
        True,
        lambda results, server: results.ratio(server, MLSERVER, _SMALL, "calls_per_s"),
    ),
    Claim(
        "CPU per call over the naive server's: 30-64-32-2, 1 row, 32 callers",
        0.9,
        False,
        lambda results, server: results.ratio(server, NAIVE, _SMALL, "cpu_us"),
    ),
    Claim(
        "rows per second over the naive server's: 784-512-512-10, 64 rows, 32 callers",
        1.5,
        True,
        lambda results, server: results.ratio(server, NAIVE, _LARGE, "calls_per_s"),
    ),
    Claim("p99 over p50 at half load: 30-64-32-2, 1 row", 3.0, False, tail),
    Claim(
        "process start to first answer, one model, seconds",
        1.5,
        False,
        lambda results, server: results.figure(server, "start", "start_s"),
    ),
    Claim("the same, seconds more than the naive server", 0.3, False, _later),
)


def verdicts(results: Results) -> Iterator[Verdict]:
    """Yield every claim for each of our servers."""
    for server in results.servers():
        if server.startswith(OURS):
            for claim in CLAIMS:
                yield Verdict(claim, server, claim.measured(results, server))
