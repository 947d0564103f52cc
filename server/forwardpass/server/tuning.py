"""Whether to batch a model on this machine and how far, measured when it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from time import thread_time

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.row_wise import NotRowWiseError, prove_row_wise
from forwardpass.server.runtime import Session, SessionError

_SIZES = (1, 8, 64, 512)
"""Rows at which the cost of a run is measured."""
_LONGEST_S = 0.02
"""No size is measured whose run would take longer, as far as the one before tells."""
_LARGEST_BYTES = 2**25
"""No size is measured whose inputs would take more."""
_REPEATS = 7
_WORTH = 0.95
"""A larger batch has to bring the cost of a row below this share of the smaller one's."""
_COMPARED = (2, 3, 7, 16, 64)
"""Batch sizes whose rows have to equal single rows bit for bit."""
_SINGLES = 16


@dataclass(frozen=True, slots=True)
class Batching:
    """How the rows of a model are run."""

    max_rows: int
    """Most rows of a run that pay; 1: rows of different calls never run together."""
    reason: str
    """Why not batched; empty if it is."""
    curve_us: Mapping[int, float]
    """Rows of a run -> its cost in microseconds of CPU, on this machine."""

    differs: bool = False
    """Whether that is because rows run together did not equal single ones bit for bit."""

    def rows_within(self, seconds: float) -> int:
        """Return how many rows run in a time, as far as the curve tells; 0 if it tells nothing."""
        budget_us = seconds * 1e6
        rows, spent_us = 0, 0.0
        for more, cost_us in self.curve_us.items():
            if cost_us > budget_us:
                part = (budget_us - spent_us) / (cost_us - spent_us) if rows else 0.0
                return rows + int(part * (more - rows))
            rows, spent_us = more, cost_us
        # Beyond what was measured a row costs what it did there.
        return int(rows * budget_us / spent_us) if rows else 0

    @property
    def invariance(self) -> str:
        """What is published under `metadata.BATCH_INVARIANT`."""
        if self.max_rows > 1:
            return "true"
        return "false" if self.differs else f"not batched: {self.reason}"


def tune(session: Session, graph: GraphProto) -> Batching:
    """Find out how to batch a loaded model.

    Batched only if the graph proves that rows are independent, and rows run together equal
    single ones bit for bit on this machine; as far as the cost of a row goes on falling.
    """
    try:
        prove_row_wise(graph)
        _check_numeric(session.inputs + session.outputs)
    except NotRowWiseError as error:
        return Batching(1, str(error), {})
    rng = np.random.default_rng(0)
    count = min(max(_SIZES), _LARGEST_BYTES // max(1, _row_bytes(session.inputs)))
    if count < _SINGLES:
        return Batching(1, f"a row of its inputs has {_row_bytes(session.inputs)} bytes", {})
    feeds = {spec.name: _rows(spec, count, rng) for spec in session.inputs}
    names = [spec.name for spec in session.outputs]
    try:
        different = _first_difference(session, feeds, names)
        if different:
            return Batching(1, different, {}, differs=True)
        curve = _curve(session, feeds, names)
    except SessionError as error:
        return Batching(1, f"random rows failed {error}", {})
    return Batching(_largest_useful(curve), "", curve)


def _check_numeric(specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if spec.datatype == "BYTES":
            raise NotRowWiseError(f"{spec.name!r} holds BYTES")
        if -1 in spec.shape[1:]:
            # Rows of different lengths cannot lie side by side, and any length may come.
            raise NotRowWiseError(f"{spec.name!r} has more axes of any length than the first")


def _row_bytes(specs: Sequence[TensorSpec]) -> int:
    return sum(prod(spec.shape[1:]) * DATATYPES[spec.datatype].dtype.itemsize for spec in specs)


def _rows(spec: TensorSpec, count: int, rng: np.random.Generator) -> NDArray[np.generic]:
    shape = (count, *spec.shape[1:])
    dtype = DATATYPES[spec.datatype].dtype
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    # Not zero, by which integers cannot be divided.
    return rng.integers(1, 3, shape).astype(dtype)


def _first_difference(
    session: Session, feeds: Mapping[str, NDArray[np.generic]], names: Sequence[str]
) -> str:
    singles = [session.run(_cut(feeds, row, row + 1), names) for row in range(_SINGLES)]
    count = len(next(iter(feeds.values())))
    for size in _COMPARED:
        if size > count:
            break
        together = session.run(_cut(feeds, 0, size), names)
        for name, array, *alone in zip(names, together, *singles, strict=True):
            if len(array) != size:
                return f"output {name!r} has {len(array)} rows for {size}"
            for row, single in enumerate(alone[:size]):
                if array[row : row + 1].tobytes() != single.tobytes():
                    return f"output {name!r} of a row differs in a batch of {size} on this machine"
    return ""


def _curve(
    session: Session, feeds: Mapping[str, NDArray[np.generic]], names: Sequence[str]
) -> dict[int, float]:
    curve: dict[int, float] = {}
    last = 0.0
    count = len(next(iter(feeds.values())))
    for size in _SIZES:
        if size > count or last * 8 > _LONGEST_S:
            break
        cut = _cut(feeds, 0, size)
        times = []
        for _ in range(_REPEATS):
            # The run is this thread's alone, and of a busy machine's other work its CPU time
            # knows least; what that does to the caches the least of several leaves out.
            start = thread_time()
            session.run(cut, names)
            times.append(thread_time() - start)
        last = max(min(times), 1e-9)  # a coarse clock may say nothing
        curve[size] = last * 1e6
    return curve


def _largest_useful(curve: Mapping[int, float]) -> int:
    best, *larger = curve
    for size in larger:
        if curve[size] / size < _WORTH * curve[best] / best:
            best = size
    # One row alone may be the cheapest of all: then two together still save a call's overhead.
    return max(best, 2)


def _cut(
    feeds: Mapping[str, NDArray[np.generic]], start: int, end: int
) -> dict[str, NDArray[np.generic]]:
    return {name: array[start:end] for name, array in feeds.items()}
