"""What a model has answered since it was loaded, and where the time went: exact counters.

A lock costs a call more than all the rest of counting it. So what is new is appended to a list,
which needs none, and summed up under a lock every hundred calls, or when someone asks.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import Lock
from time import perf_counter_ns, time_ns
from typing import TypeVar

import numpy as np

from forwardpass.server.errors import Status
from forwardpass.server.histogram import Histograms

PHASES = ("decode", "queue", "compute", "encode", "total")
"""Parts of a call's time, and their sum."""

_KEPT = 128
"""Entries that wait to be summed up: few enough for hundreds of models."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Calls:
    """Sums over the calls of a model; times in nanoseconds."""

    answered: int = 0
    rows: int = 0
    """Of the calls that were answered; one that is not run by rows counts as 1."""
    input_ns: int = 0
    """Reading and checking requests."""
    queue_ns: int = 0
    """Waiting for a run."""
    infer_ns: int = 0
    """The runs that each call was a part of."""
    output_ns: int = 0
    """Writing replies."""
    last_ms: int = 0
    """When the last answer was given, in milliseconds since the epoch; 0 before the first."""
    failed: int = 0
    failed_ns: int = 0
    """From a call's arrival to its error."""
    failed_by: Mapping[Status, int] = field(default_factory=dict)
    """How many of them ended with which status."""

    @property
    def answered_ns(self) -> int:
        """From arrival to reply: the four parts leave no time out."""
        return self.input_ns + self.queue_ns + self.infer_ns + self.output_ns


@dataclass(slots=True)
class Runs:
    """Sums over the runs that had the same number of rows; times in nanoseconds."""

    count: int = 0
    input_ns: int = 0
    """Putting the rows of several calls side by side."""
    infer_ns: int = 0
    """In onnxruntime."""
    output_ns: int = 0
    """Parting the answers."""


class Statistics:
    """The counters of one model version; thread-safe."""

    def __init__(self) -> None:
        self._new_calls: list[tuple[int, int, int, int, int, int, int]] = []
        self._new_runs: list[tuple[int, int, int, int]] = []
        # Guards the sums, and that nothing new is summed up twice.
        self._lock = Lock()
        self._calls = Calls()
        self._failed_by: Counter[Status] = Counter()
        self._phases = Histograms(len(PHASES))
        self._runs: dict[int, Runs] = {}

    def answered(
        self,
        rows: int,
        input_ns: int,
        queue_ns: int,
        infer_ns: int,
        output_ns: int,
        ended_ns: int,
        *,
        calls: int = 1,
    ) -> None:
        """Count calls that were answered; ended_ns is on the clock of time.perf_counter_ns.

        calls: How many; all that is counted is the sum over them.
        """
        new = self._new_calls
        new.append((calls, rows, input_ns, queue_ns, infer_ns, output_ns, ended_ns))
        if len(new) >= _KEPT:
            self._sum_up()

    def ran(self, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count a run, whose rows may be those of many calls."""
        new = self._new_runs
        new.append((rows, input_ns, infer_ns, output_ns))
        if len(new) >= _KEPT:
            self._sum_up()

    def failed(self, ns: int, status: Status) -> None:
        """Count a call that ended in an error."""
        with self._lock:
            self._failed_by[status] += 1
            self._calls.failed += 1
            self._calls.failed_ns += ns

    def read(self) -> tuple[Calls, Mapping[int, Runs]]:
        """Return the sums as they are now: over calls, and over runs by their rows."""
        self._sum_up()
        with self._lock:
            calls = replace(self._calls, failed_by=dict(self._failed_by))
            return calls, {rows: replace(self._runs[rows]) for rows in sorted(self._runs)}

    def phases(self) -> Mapping[str, list[int]]:
        """Return for each of PHASES how many answered calls took how long, as `histogram` says."""
        self._sum_up()
        with self._lock:
            return dict(zip(PHASES, self._phases.counts(), strict=True))

    def _sum_up(self) -> None:
        with self._lock:
            new = _take(self._new_calls)
            if new:
                flat = np.fromiter(chain.from_iterable(new), np.int64, len(new) * len(new[0]))
                table = flat.reshape(len(new), -1)
                count, parts = table[:, 0], table[:, 2:6]
                # Calls that were answered together took the same time, as far as is known.
                each = parts // count[:, np.newaxis]
                self._phases.add(np.column_stack((each, each.sum(axis=1))), count)
                answered, rows, *sums = table[:, :6].sum(axis=0).tolist()
                input_ns, queue_ns, infer_ns, output_ns = sums
                calls = self._calls
                calls.answered += answered
                calls.rows += rows
                calls.input_ns += input_ns
                calls.queue_ns += queue_ns
                calls.infer_ns += infer_ns
                calls.output_ns += output_ns
                last_ns = time_ns() - perf_counter_ns() + int(table[:, 6].max())
                calls.last_ms = max(calls.last_ms, last_ns // 1_000_000)
            for run_rows, joined_ns, ran_ns, parted_ns in _take(self._new_runs):
                runs = self._runs.get(run_rows)
                if runs is None:
                    runs = self._runs[run_rows] = Runs()
                runs.count += 1
                runs.input_ns += joined_ns
                runs.infer_ns += ran_ns
                runs.output_ns += parted_ns


def _take(new: list[_T]) -> list[_T]:
    """Empty a list that others append to meanwhile; return what was in it."""
    taken = new[:]
    del new[: len(taken)]
    return taken
