"""Two runs compared: what changed by more than the noise.

Both are taken as ratios to the naive server of their own run, turn by turn, so that a slower
machine or a busy one is no change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.field.grid import Case
from benchmarks.field.peers import NAIVE
from benchmarks.field.results import Figure, Results, described

_METRICS = {"calls_per_s": True, "cpu_us": False, "p50_us": False, "p99_us": False}
"""Of cases, and whether more is better."""
_STARTS = {"start_s": False, "resident_bytes": False}
_LEAST = 0.05
"""Changes below are none, however small the spread of three measurements happens to be."""


@dataclass(frozen=True)
class Change:
    """A figure that is not what it was."""

    server: str
    what: str
    metric: str
    earlier: Figure
    now: Figure
    better: bool


def changes(earlier: Results, now: Results) -> Iterator[Change]:
    """Yield every ratio whose measurements all lie beyond the earlier ones."""
    kinds: list[tuple[Case | str, str, dict[str, bool]]] = [
        (case, described(case), _METRICS) for case in now.cases()
    ]
    kinds.append(("start", "start", _STARTS))
    for server in now.servers():
        if server == NAIVE:
            continue
        for what, text, metrics in kinds:
            for metric, more_is_better in metrics.items():
                then, new = (run.ratio(server, NAIVE, what, metric) for run in (earlier, now))
                if then is not None and new is not None and _differ(then, new):
                    better = (new.median > then.median) == more_is_better
                    yield Change(server, text, metric, then, new, better)


def _differ(then: Figure, now: Figure) -> bool:
    apart = now.low > then.high or now.high < then.low
    return apart and abs(now.median / then.median - 1) > _LEAST
