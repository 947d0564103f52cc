"""What a worker has counted, and the sums over all workers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from forwardpass.server.engine.drift import Drift, Values
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import BatchQueue
from forwardpass.server.engine.statistics import PHASES, Calls, Runs, Statistics
from forwardpass.server.errors import Status
from forwardpass.server.observe.load import Load
from forwardpass.server.observe.refusals import Refusals
from forwardpass.server.process.incidents import Incident, Incidents

_S = TypeVar("_S", Calls, Runs, Values)


@dataclass
class ModelFigures:
    """What was counted of one model."""

    calls: Calls = field(default_factory=Calls)
    runs: dict[int, Runs] = field(default_factory=dict)
    phases: dict[str, list[int]] = field(default_factory=dict)
    inputs: dict[str, Values] = field(default_factory=dict)
    features: dict[str, dict[str, Values]] = field(default_factory=dict)
    waiting: int = 0
    oldest_ns: int = 0

    @classmethod
    def of(cls, model: Model) -> "ModelFigures":
        """Read the counters of a model."""
        calls, runs = model.statistics.read()
        drift = model.drift
        return cls(
            calls,
            dict(runs),
            dict(model.statistics.phases()),
            {} if drift is None else dict(drift.read()),
            {} if drift is None else {n: dict(v) for n, v in drift.read_columns().items()},
            model.waiting,
            model.queue.oldest_ns,
        )

    def add(self, other: "ModelFigures") -> None:
        """Add what another process has counted."""
        self.calls = _sum(self.calls, other.calls)
        _add(self.runs, other.runs)
        for phase, counts in other.phases.items():
            before = self.phases.get(phase, [0] * len(counts))
            self.phases[phase] = [a + b for a, b in zip(before, counts, strict=True)]
        _add(self.inputs, other.inputs)
        for name, columns in other.features.items():
            _add(self.features.setdefault(name, {}), columns)
        self.waiting += other.waiting
        self.oldest_ns = max(self.oldest_ns, other.oldest_ns)

    def past(self) -> "ModelFigures":
        """Return what stays of it when its process has ended."""
        return replace(self, waiting=0, oldest_ns=0)


@dataclass
class Figures:
    """What was counted by one process, or by several."""

    models: dict[str, ModelFigures] = field(default_factory=dict)
    """By key, of models that were called."""
    load: Load | None = None
    open_streams: int = 0
    incidents: Counter[Incident] = field(default_factory=Counter)
    refused: Counter[tuple[str, Status]] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Figures") -> None:
        """Add what another process has counted."""
        for key, figures in other.models.items():
            self.models.setdefault(key, ModelFigures()).add(figures)
        if other.load is not None:
            self.load = other.load if self.load is None else self.load.with_that_of(other.load)
        self.open_streams += other.open_streams
        self.incidents.update(other.incidents)
        self.refused.update(other.refused)
        self.shed.update(other.shed)

    def past(self) -> "Figures":
        """Return what stays of it when its process has ended."""
        models = {key: figures.past() for key, figures in self.models.items()}
        return replace(self, models=models, load=None, open_streams=0)


class SummedStatistics(Statistics):
    """The counters of a model in all processes, as they were gathered last."""

    def __init__(self) -> None:
        super().__init__()
        self.figures = ModelFigures()

    @property
    def used(self) -> bool:
        """Whether any call was counted."""
        calls = self.figures.calls
        return bool(calls.answered or calls.failed or self.figures.runs)

    def read(self) -> tuple[Calls, Mapping[int, Runs]]:
        """Return the sums."""
        return self.figures.calls, self.figures.runs

    def phases(self) -> Mapping[str, list[int]]:
        """Return the sums of the histograms."""
        return self.figures.phases or dict(zip(PHASES, super().phases().values(), strict=True))


class SummedDrift(Drift):
    """What was counted of a model's inputs in all processes."""

    def __init__(self, statistics: SummedStatistics) -> None:
        super().__init__((), {})
        self._statistics = statistics

    def read(self) -> Mapping[str, Values]:
        """Return the sums by input."""
        return self._statistics.figures.inputs

    def read_columns(self) -> Mapping[str, Mapping[str, Values]]:
        """Return the sums by input and column."""
        return self._statistics.figures.features


class SummedQueue(BatchQueue):
    """The queues of a model in all processes; nothing waits in this one."""

    def __init__(self, statistics: SummedStatistics, max_waiting: int) -> None:
        self._statistics = statistics
        self._sum = max_waiting

    @property
    def waiting(self) -> int:
        """Number of jobs that wait in all queues."""
        return self._statistics.figures.waiting

    @property
    def oldest_ns(self) -> int:
        """How long the first of all has waited."""
        return self._statistics.figures.oldest_ns

    @property
    def max_waiting(self) -> int:
        """Maximum number of jobs of a class that wait, in all queues."""
        return self._sum


class SummedIncidents(Incidents):
    """Incidents of all processes: those that workers have counted, and this one's."""

    def __init__(self, own: Incidents) -> None:
        super().__init__()
        self._own = own
        self.counts: Counter[Incident] = Counter()

    def total(self, kind: Incident) -> int:
        """Return how often it has happened."""
        return self.counts[kind] + self._own.total(kind)


class SummedRefusals(Refusals):
    """Refused calls of all processes."""

    def take(self, figures: Figures) -> None:
        """Replace the counts."""
        with self._lock:
            self._counts, self._shed = figures.refused, figures.shed


def counted_by(incidents: Incidents) -> Counter[Incident]:
    """Return the totals of one process."""
    return Counter({kind: incidents.total(kind) for kind in Incident})


def total(figures: Iterable[Figures]) -> Figures:
    """Return the sums over processes."""
    sums = Figures()
    for each in figures:
        sums.add(each)
    return sums


def _add(sums: dict[Any, _S], other: Mapping[Any, _S]) -> None:
    for key, value in other.items():
        sums[key] = _sum(sums[key], value) if key in sums else value


def _sum(one: _S, other: _S) -> _S:
    """Add two sets of sums, field by field."""
    added = {
        each.name: getattr(one, each.name) + getattr(other, each.name)
        for each in fields(one)
        if each.name not in ("last_ms", "failed_by")
    }
    if isinstance(one, Calls) and isinstance(other, Calls):
        added["last_ms"] = max(one.last_ms, other.last_ms)
        added["failed_by"] = dict(Counter(one.failed_by) + Counter(other.failed_by))
    return replace(one, **added)
