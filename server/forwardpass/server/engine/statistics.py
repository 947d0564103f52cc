"""Counters of a model's calls and runs since it was loaded, and of their time; they are exact.

A lock costs a call more than all the rest of counting it. So new entries are appended to a list,
which needs none, and summed up under a lock every hundred calls, or when the sums are read.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from operator import itemgetter
from threading import Lock
from time import perf_counter_ns, time_ns
from typing import TypeVar

import numpy as np

from forwardpass.server.engine.histogram import Histograms
from forwardpass.server.errors import Status

PHASES = ("receive", "decode", "queue", "compute", "encode", "total")
"""Parts of a call's time, and their sum."""

_KEPT = 128
"""Maximum entries that wait to be summed up: few enough for hundreds of models."""

_T = TypeVar("_T")
_rows = itemgetter(0)
"""Returns the rows of a run, as it is counted."""


@dataclass(slots=True)
class Calls:
    """Sums over the calls of a model; times in nanoseconds."""

    answered: int = 0
    rows: int = 0
    """Of the calls that were answered; one that is not run by rows counts as 1."""
    receive_ns: int = 0
    """From the first byte of a request to the last one."""
    input_ns: int = 0
    """Time of reading and checking requests."""
    queue_ns: int = 0
    """Time of waiting: for a thread, or a turn of the event loop, and for a run."""
    infer_ns: int = 0
    """Time of the runs, counted for each call in them."""
    output_ns: int = 0
    """Time of writing replies."""
    last_ms: int = 0
    """The time of the last answer, in milliseconds since the epoch; 0 before the first."""
    failed: int = 0
    failed_ns: int = 0
    """Time of failed calls from their arrival to their error."""
    failed_by: Mapping[Status, int] = field(default_factory=dict)
    """The number of failed calls by status."""

    @property
    def answered_ns(self) -> int:
        """From the first byte to the reply: the five parts leave no time out."""
        ns = self.input_ns + self.queue_ns + self.infer_ns + self.output_ns
        return self.receive_ns + ns


@dataclass(slots=True)
class Runs:
    """Sums over the runs that had the same number of rows; times in nanoseconds."""

    count: int = 0
    input_ns: int = 0
    """Time of joining the rows of several calls."""
    infer_ns: int = 0
    """Time in onnxruntime."""
    output_ns: int = 0
    """Time of splitting the answers."""


class Statistics:
    """The counters of one model version; thread-safe."""

    def __init__(self) -> None:
        self._new_calls: list[tuple[int, int, int, int, int, int, int, int]] = []
        self._new_runs: list[tuple[int, int, int, int]] = []
        # Guards the sums, and that no entry is summed up twice.
        self._lock = Lock()
        self._calls = Calls()
        self._failed_by: Counter[Status] = Counter()
        self._phases = Histograms(len(PHASES))
        self._runs: dict[int, Runs] = {}

    @property
    def used(self) -> bool:
        """Whether any call was counted."""
        calls = self._calls
        return bool(self._new_calls or calls.answered or calls.failed or self._runs)

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
        receive_ns: int = 0,
    ) -> None:
        """Count calls that were answered; ended_ns is on the clock of time.perf_counter_ns.

        calls: Number of calls; the other values are sums over them.
        """
        new = self._new_calls
        new.append((calls, rows, receive_ns, input_ns, queue_ns, infer_ns, output_ns, ended_ns))
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
        """Return for each of PHASES the counts of answered calls in the bins of `histogram`."""
        self._sum_up()
        with self._lock:
            return dict(zip(PHASES, self._phases.counts(), strict=True))

    def _sum_up(self) -> None:
        with self._lock:
            new = _take(self._new_calls)
            if new:
                flat = np.fromiter(chain.from_iterable(new), np.int64, len(new) * len(new[0]))
                table = flat.reshape(len(new), -1)
                count, parts = table[:, 0], table[:, 2:7]
                # Calls that were answered together took the same time, as far as is known.
                each = parts // count[:, np.newaxis]
                self._phases.add(np.column_stack((each, each.sum(axis=1))), count)
                answered, rows, *sums = table[:, :7].sum(axis=0).tolist()
                receive_ns, input_ns, queue_ns, infer_ns, output_ns = sums
                calls = self._calls
                calls.answered += answered
                calls.rows += rows
                calls.receive_ns += receive_ns
                calls.input_ns += input_ns
                calls.queue_ns += queue_ns
                calls.infer_ns += infer_ns
                calls.output_ns += output_ns
                last_ns = time_ns() - perf_counter_ns() + int(table[:, 7].max())
                calls.last_ms = max(calls.last_ms, last_ns // 1_000_000)
            new_runs = sorted(_take(self._new_runs), key=_rows)
            for rows, group in groupby(new_runs, _rows):
                runs = self._runs.get(rows)
                if runs is None:
                    runs = self._runs[rows] = Runs()
                equal, joined_ns, ran_ns, parted_ns = zip(*group, strict=True)
                runs.count += len(equal)
                runs.input_ns += sum(joined_ns)
                runs.infer_ns += sum(ran_ns)
                runs.output_ns += sum(parted_ns)


def _take(new: list[_T]) -> list[_T]:
    """Empty a list that others append to meanwhile; return what was in it."""
    taken = new[:]
    del new[: len(taken)]
    return taken
