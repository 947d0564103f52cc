"""Histograms of durations: counts between fixed bounds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BOUNDS_NS = (*(step * 10**power for power in range(3, 10) for step in (1, 2, 5)), 10**10)
"""1, 2, 5, 10, 20, ... microseconds up to 10 seconds: a small network answers within the first
few. Each bound belongs to the count below it, as in Prometheus."""

_CELLS = len(BOUNDS_NS) + 1


class Histograms:
    """Several histograms that are counted together; not thread-safe."""

    def __init__(self, count: int) -> None:
        self._bounds = np.array(BOUNDS_NS, np.int64)
        self._first = np.arange(count) * _CELLS
        self._counts = np.zeros(count * _CELLS, np.int64)

    def add(self, ns: NDArray[Any], often: NDArray[Any]) -> None:
        """Count times in nanoseconds (times, histograms), each as often as in `often` (times,)."""
        cells = self._bounds.searchsorted(ns) + self._first
        # As float64, which is exact up to 2**53.
        added = np.bincount(cells.ravel(), often.repeat(ns.shape[1]), self._counts.size)
        self._counts += added.astype(np.int64)

    def counts(self) -> list[list[int]]:
        """Return for each histogram the counts up to each bound, and the count above all bounds."""
        counts: list[list[int]] = self._counts.reshape(-1, _CELLS).tolist()
        return counts
