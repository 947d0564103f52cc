"""What has to hold of our server as it serves by default, and whether it does in a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.field.grid import (
    HALF_OF_OURS,
    HUGE,
    LARGE,
    MANY,
    ONE,
    SATURATING,
    SOME,
    SPREAD,
    Case,
)
from benchmarks.field.peers import ALONE, FRAMES, NAIVE, OURS, OURS_ON_TWO
from benchmarks.field.results import Figure, Results
from benchmarks.networks import NETWORKS


@dataclass(frozen=True)
class Claim:
    """A figure of ours, and its bound."""

    text: str
    bound: float
    measured: Callable[[Results], Figure | None]
    at_least: bool = False
    floor: Callable[[Results], Figure | None] = lambda _: None
    """The figure of a server that would add nothing to what is needed."""
    why: str = ""
    """Where it failed: the reason, as it was measured."""

    def holds(self, figure: Figure) -> bool:
        """Return whether the median is within the bound."""
        return figure.median >= self.bound if self.at_least else figure.median <= self.bound


@dataclass(frozen=True)
class Verdict:
    """A claim as a run bears it out."""

    claim: Claim
    figure: Figure | None
    """None if the run did not measure it."""
    floor: Figure | None = None

    @property
    def word(self) -> str:
        """Return `pass`, `fail` with the reason, or that it was not measured."""
        if self.figure is None:
            return "not measured"
        if self.claim.holds(self.figure):
            return "pass"
        reasons = [self.claim.why] if self.claim.why else []
        if self.floor is not None and not self.claim.holds(self.floor):
            reasons.insert(0, f"onnxruntime alone and `frames` have {self.floor.median:.2f}")
        return ": ".join(["fail", "; ".join(reasons)] if reasons else ["fail"])


def _over(
    what: str,
    bound: float,
    other: str,
    case: Case,
    metric: str,
    *,
    name: str = "",
    why: str = "",
) -> Claim:
    """Claim that a figure of ours is at most so many times another server's."""

    def floor(results: Results) -> Figure | None:
        alone = Case(case.network, case.rows, callers=1)
        run = results.ratio(ALONE, other, alone, metric, case)
        frames = results.ratio(FRAMES, other, case, metric)
        if metric != "cpu_us" or case.rows == 1 or run is None or frames is None:
            # Rows of several calls run together, which takes less.
            return None
        return Figure.of({(0, 0): run.median + frames.median})

    return Claim(
        f"{what} over {name or other}'s: {described(case)}",
        bound,
        lambda results: results.ratio(OURS, other, case, metric),
        floor=floor,
        why=why,
    )


def described(case: Case) -> str:
    """Return a case as the document names it: network, rows, connections x calls in flight."""
    sizes = "-".join(map(str, NETWORKS[case.network].sizes))
    load = f"{case.connections}x{case.callers // case.connections}" if case.callers else case.load
    return f"{sizes}, {case.rows:,} row{'s' if case.rows > 1 else ''}, {load}"


_CPU = "CPU a call"
_CELLS = ((ONE, 0.33), (MANY, 0.028), (SPREAD, 0.08), (LARGE, 0.65), (HUGE, 0.73))
_WHY = {
    SPREAD: "each call is a read and a write of its own connection, which `frames` pays, too",
    HUGE: "beside the run a call takes 2.2 ms of the event loop: Python 0.9, the kernel 0.9, "
    "copies 0.4",
}
"""What profiles by perf and /proc/PID/schedstat showed."""
_BESIDE_TRITON = ((ONE, 0.70), (MANY, 0.12), (SPREAD, 0.30), (LARGE, 0.90), (HUGE, 0.95))
"""The same of a server whose name begins with Triton."""


def _more(results: Results) -> Figure | None:
    ours, naive = (results.values(name, "start", "start_cpu_s") for name in (OURS, NAIVE))
    return Figure.of({turn: ours[turn] - naive[turn] for turn in ours if turn in naive})


def _of_alone(results: Results) -> Figure | None:
    alone = Case(HUGE.network, HUGE.rows, callers=1)
    return results.ratio(OURS, ALONE, HUGE, "calls_per_s", alone)


CLAIMS = (
    *(
        _over(_CPU, bound, NAIVE, case, "cpu_us", name="the naive server", why=_WHY.get(case, ""))
        for case, bound in _CELLS
    ),
    Claim(
        f"rows a second over onnxruntime alone: {described(HUGE)}",
        0.85,
        _of_alone,
        at_least=True,
        why=f"{_WHY[HUGE]}; where the run takes 13 ms, for want of AVX-512, it is 0.85",
    ),
    _over(
        "p99 at half of our load",
        1.5,
        FRAMES,
        HALF_OF_OURS,
        "p99_us",
        name="`frames`",
        why="not explained where AVX-512 is; without it, our core is 81 % busy at this rate and "
        "that of `frames` 41 %, and at 5,000 calls a second it is 1.05 to 1.8",
    ),
    *(_over("p99", 0.12, NAIVE, case, "p99_us", name="the naive server") for case in (SOME, MANY)),
    Claim(
        f"two processes on two cores, calls a second over one: {described(SATURATING)}",
        1.8,
        lambda results: results.ratio(OURS_ON_TWO, OURS, SATURATING, "calls_per_s"),
        at_least=True,
        why="both cores are busy: of 107 us a call, the load takes 28",
    ),
    Claim(
        "the same, CPU a call",
        1.1,
        lambda results: results.ratio(OURS_ON_TWO, OURS, SATURATING, "cpu_us"),
    ),
    Claim("CPU from process start to first answer, s more than the naive server", 0.15, _more),
    Claim(
        "resident memory then, over the naive server's",
        1.1,
        lambda results: results.ratio(OURS, NAIVE, "start", "resident_bytes"),
    ),
)


def verdicts(results: Results) -> Iterator[Verdict]:
    """Yield every claim, and those beside a foreign Triton if there is one."""
    triton = [name for name in results.data.get("foreign", ()) if name.startswith("Triton")]
    beside = [
        _over(_CPU, bound, name, case, "cpu_us")
        for name in triton
        for case, bound in _BESIDE_TRITON
    ]
    for claim in (*CLAIMS, *beside):
        yield Verdict(claim, claim.measured(results), claim.floor(results))
