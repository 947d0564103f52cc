"""What the server does now, in figures: models, the process, callers."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from forwardpass.proto.version import __version__
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.engine.histogram import BOUNDS_NS
from forwardpass.server.observe.load import Load
from forwardpass.server.process.memory import resident
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc.peers import Counted, Peers
from forwardpass.server.rpc.service import Service


class Overview:
    """Reads the figures when they are asked for."""

    def __init__(
        self,
        service: Service,
        catalog: Catalog,
        peers: Peers,
        load: Callable[[], Load],
        started: float,
    ) -> None:
        """Prepare; started: When the server did, on the clock of time.monotonic."""
        self._service = service
        self._catalog = catalog
        self._peers = peers
        self._load = load
        self._started = started

    def read(self, caller: Caller, page_calls: int) -> dict[str, Any]:
        """Return what a caller may read."""
        models = [
            model
            for name in sorted(self._catalog)
            if caller.may(Action.READ, name)
            for model in self._catalog.get(name).answering.values()
        ]
        counted: dict[str, list[Counted]] = {}
        for model, each in zip(models, self._peers.counted(models), strict=True):
            counted.setdefault(model.name, []).append(each)
        versions: dict[str, list[dict[str, str]]] = {}
        for entry in self._catalog.index():
            if caller.may(Action.READ, entry.name):
                versions.setdefault(entry.name, []).append(
                    {
                        "version": str(entry.version),
                        "state": entry.state,
                        "reason": entry.reason,
                    }
                )
        refused: dict[str, Counter[str]] = {}
        for (name, status), calls in self._service.refusals.read().items():
            refused.setdefault(name, Counter())[status.name] += calls
        return {
            "server": {
                "name": self._service.name,
                "version": __version__,
                "uptime_s": round(time.monotonic() - self._started, 3),
            },
            "models": [
                {"name": name, "versions": listed}
                | _figures(counted.get(name, []), refused.get(name, Counter()))
                for name, listed in versions.items()
            ],
            "process": self._process(page_calls),
            "callers": self._callers(caller),
        }

    def _process(self, page_calls: int) -> dict[str, Any]:
        load = self._load()
        waiting = sum(
            model.waiting
            for name in self._catalog
            for model in self._catalog.get(name).answering.values()
        )
        return {
            "memory_bytes": resident(),
            "connections": load.connections,
            # Without the one that asks.
            "calls_in_flight": max(0, load.in_flight - 1),
            "waiting_calls": load.waiting + waiting,
            "shed_calls": sum(self._service.refusals.read_shed().values()),
            "page_calls": page_calls,
        }

    def _callers(self, caller: Caller) -> list[dict[str, Any]]:
        # Their names say who uses the server: to those alone who may read all of it.
        whole = caller.may(Action.READ, None)
        return [
            {"name": name, "calls": calls}
            for name, calls in sorted(self._service.inference.callers().items())
            if whole or name == caller.name
        ]


def _figures(counted: Sequence[Counted], refused: Mapping[str, int]) -> dict[str, Any]:
    """Return the sums over the versions of a model; refused: calls that reached none of them."""
    errors = Counter(refused)
    batches: Counter[int] = Counter()
    for each in counted:
        for status, calls in each.calls.failed_by.items():
            errors[status.name] += calls
        for rows, runs in each.runs.items():
            # To the next power of two: there may be thousands of sizes.
            batches[1 << (rows - 1).bit_length() if rows > 1 else 1] += runs.count
    totals = [each.phases.get("total", []) for each in counted]
    histogram = [sum(cells) for cells in zip(*filter(None, totals), strict=True)]
    return {
        "calls": sum(each.calls.answered for each in counted) + errors.total(),
        "errors": dict(sorted(errors.items())),
        "p50_ms": percentile_ms(histogram, 0.5),
        "p99_ms": percentile_ms(histogram, 0.99),
        "waiting": sum(each.waiting for each in counted),
        "batches": {str(rows): batches[rows] for rows in sorted(batches)},
    }


def percentile_ms(counts: Iterable[int], share: float) -> float | None:
    """Return the time that a share of the calls took at most, in milliseconds; None: no calls.

    counts: Of the bins of `histogram`, in which calls are taken to be spread evenly.
    """
    cells = list(counts)
    left = share * sum(cells)
    if not left:
        return None
    below = 0
    for count, bound in zip(cells, BOUNDS_NS, strict=False):
        if count and left <= count:
            return float(round((below + (bound - below) * left / count) / 1e6, 6))
        left -= count
        below = bound
    # Above all bounds nothing more is known.
    return float(BOUNDS_NS[-1] / 1e6)
