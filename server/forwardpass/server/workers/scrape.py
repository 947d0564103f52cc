"""The metrics of all processes of a server, at one port: the keeper's."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from forwardpass.server.config import Config
from forwardpass.server.health import Health
from forwardpass.server.observe.load import Load
from forwardpass.server.observe.metrics import MetricsCollector
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.repository.mirror_folder import MirrorFigures
from forwardpass.server.workers.figures import Figures, SummedIncidents, SummedRefusals

_NOTHING = Load(in_flight=0, waiting=0, oldest_ns=0, connections=None, certificate_expires_s=None)
_RESIDENT, _START = "process_resident_memory_bytes", "process_start_time_seconds"


class SummedCollector(Collector):
    """Builds the metrics of one server out of what its workers have counted."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        health: Health,
        incidents: Incidents,
        gather: Callable[[], Figures],
        processes: Callable[[], tuple[int, int]],
        mirror: "Callable[[], MirrorFigures] | None" = None,
    ) -> None:
        """Prepare.

        gather: Asks all workers. processes: Returns how many workers answer calls, and how often
        a process was started again. mirror: see `MetricsCollector`.
        """
        self._gather = gather
        self._processes = processes
        self._figures = Figures()
        self._incidents = SummedIncidents(incidents)
        self._refusals = SummedRefusals()
        self._collector = MetricsCollector(
            catalog,
            health,
            self._refusals,
            load=lambda: self._figures.load or _NOTHING,
            open_streams=lambda: self._figures.open_streams,
            # Each process has its own.
            max_backlog=config.processes * config.max_backlog,
            max_connections=config.processes * config.max_connections,
            incidents=self._incidents,
            mirror=mirror,
        )

    def collect(self) -> Iterator[Metric]:
        """Ask all workers, and build every metric."""
        self._figures = figures = self._gather()
        self._incidents.counts = figures.incidents
        self._refusals.take(figures)
        yield from self._collector.collect()
        workers, restarts = self._processes()
        yield GaugeMetricFamily(
            "forwardpass_workers", "Processes that answer calls (--processes).", workers
        )
        yield CounterMetricFamily(
            "forwardpass_restarts", "Processes that ended and were started again.", restarts
        )


class ProcessesCollector(Collector):
    """The metrics of a process, summed over all processes of the server.

    Memory that several share counts once. The CPU time of those that have ended is kept, as it was
    when they were looked at last.
    """

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._cpu_s: dict[int, float] = {}

    def collect(self) -> Iterator[Metric]:
        """Read /proc."""
        sums: dict[str, Metric] = {}
        values: defaultdict[str, list[float]] = defaultdict(list)
        for pid in self._pids():
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                sums.setdefault(family.name, family)
                (sample,) = family.samples
                value = sample.value
                if family.name == _RESIDENT:
                    value = _proportional(pid, value)
                elif family.name == "process_cpu_seconds":
                    self._cpu_s[pid] = value
                    continue
                values[family.name].append(value)
        values["process_cpu_seconds"] = list(self._cpu_s.values())
        for name, family in sums.items():
            how = min if name == _START else sum
            family.samples = [family.samples[0]._replace(value=how(values[name]))]
            yield family


def _proportional(pid: int, resident: float) -> float:
    """Return the memory of a process, with its part of what it shares; in bytes."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("Pss:"))
    return resident
