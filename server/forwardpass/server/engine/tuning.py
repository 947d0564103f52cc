"""Whether to batch a model on this machine and how far, measured when it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.engine.row_wise import NotRowWiseError, prove_row_wise, where_place_counts
from forwardpass.server.engine.session import Session, SessionError
from forwardpass.server.onnx_messages import GraphProto

_SIZES = (1, 8, 64, 512)
"""Rows at which the cost of a run is measured."""
_LONGEST_S = 0.02
"""Maximum seconds of a run that is measured, as estimated from the size before."""
_LARGEST_BYTES = 2**25
"""Maximum bytes of the inputs of a run that is measured."""
_REPEATS = 7
_ENOUGH_S = 0.01
"""Time after which a size is not measured again: what is long varies little."""
_WORTH = 0.95
"""A larger batch has to bring the cost of a row below this share of the smaller one's."""
_COMPARED = (2, 3, 7, 16, 64)
"""Batch sizes whose rows have to equal single rows bit for bit."""
_SINGLES = 16
_SCATTERED = 65_537
"""Numbers that are drawn before they repeat; a prime, so that rows of any other width differ."""
_KNOWN, _KNOWN_BYTES = 4096, 256
"""Maximum number of categories that rows have, and size of one, in bytes: each stands in many."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How the rows of a model are run."""

    max_rows: int
    """The most rows of a run that pay; 1: rows of different calls never run together."""
    reason: str
    """The reason why it is not batched; empty if it is."""
    curve_us: Mapping[int, float]
    """Rows of a run -> its cost in microseconds of CPU, on this machine."""

    differs: bool = False
    """Whether the reason is that rows run together did not equal single ones bit for bit."""

    def rows_within(self, seconds: float) -> int:
        """Return how many rows run in a time, estimated from the curve; 0 if that is empty."""
        budget_us = seconds * 1e6
        rows, spent_us = 0, 0.0
        for more, cost_us in self.curve_us.items():
            if cost_us > budget_us:
                part = (budget_us - spent_us) / (cost_us - spent_us) if rows else 0.0
                return rows + int(part * (more - rows))
            rows, spent_us = more, cost_us
        # Above the largest size measured, a row is assumed to cost the same as there.
        return int(rows * budget_us / spent_us) if rows else 0

    def within(self, max_rows: int | None) -> "Batching":
        """Return the same with at most so many rows in a run; None: without a maximum."""
        if max_rows is None or max_rows >= self.max_rows:
            return self
        reason = "its operator set a maximum of 1 row a run" if max_rows == 1 else self.reason
        return replace(self, max_rows=max_rows, reason=reason)

    @property
    def invariance(self) -> str:
        """The text published under `metadata.BATCH_INVARIANT`."""
        if self.max_rows > 1:
            return "true"
        return "false" if self.differs else f"not batched: {self.reason}"


def may_batch(graph: GraphProto) -> bool:
    """Whether a graph is one that `tune` may find to be batched, and its calls to run in pieces."""
    try:
        prove_row_wise(graph)
    except NotRowWiseError:
        return False
    constants = {tensor.name for tensor in graph.initializer}
    return not any(
        not dim.HasField("dim_value")
        for value in graph.input
        if value.name not in constants
        for dim in value.type.tensor_type.shape.dim[1:]
    )


def tune(session: Session, graph: GraphProto, *, row_wise: bool = False) -> Batching:
    """Find out how to batch a loaded model.

    It is batched only if the graph proves that rows are independent, and rows run together equal
    single ones bit for bit on this machine; up to the size where a row's cost stops falling.
    row_wise: Whether the independence is known without the proof.
    """
    try:
        if not row_wise:
            prove_row_wise(graph)
        _check_joinable(session.inputs, session.outputs)
    except NotRowWiseError as error:
        return Batching(1, str(error), {})
    if not row_wise and (place := where_place_counts(graph)):
        return Batching(1, place, {}, differs=True)
    count = min(max(_SIZES), _LARGEST_BYTES // max(1, _row_bytes(session.inputs)))
    if count < _SINGLES:
        return Batching(1, f"a row of its inputs has {_row_bytes(session.inputs)} bytes", {})
    known = _known(graph)
    feeds = {spec.name: _rows(spec, count, known.get(spec.name, ())) for spec in session.inputs}
    names = [spec.name for spec in session.outputs]
    try:
        different = _first_difference(session, feeds, names)
        if different:
            return Batching(1, different, {}, differs=True)
        curve = _curve(session, feeds, names)
    except SessionError as error:
        return Batching(1, f"random rows failed {error}", {})
    return Batching(_largest_useful(curve), "", curve)


def _check_joinable(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    for spec in (*inputs, *outputs):
        if spec.datatype == "BYTES" and spec in outputs:
            # Where a row of the answers ends is not known from their bytes.
            raise NotRowWiseError(f"{spec.name!r} holds BYTES")
        if -1 in spec.shape[1:]:
            # Rows of different lengths cannot be joined, and callers may send any length.
            raise NotRowWiseError(f"{spec.name!r} has more axes of any length than the first")


def _row_bytes(specs: Sequence[TensorSpec]) -> int:
    return sum(prod(spec.shape[1:]) * DATATYPES[spec.datatype].dtype.itemsize for spec in specs)


def _known(graph: GraphProto) -> dict[str, Sequence[bytes | int]]:
    """Return values that a graph knows of each input that it encodes: categories, of few bytes."""
    return {
        node.input[0]: attribute.ints[:_KNOWN]
        or [text for text in attribute.strings[:_KNOWN] if len(text) <= _KNOWN_BYTES]
        for node in graph.node
        if node.op_type == "LabelEncoder"
        for attribute in node.attribute
        if attribute.name.startswith("keys_")
    }


def _rows(spec: TensorSpec, count: int, known: Sequence[bytes | int]) -> NDArray[np.generic]:
    """Return rows of scattered numbers: in -2..2, or 1 and 2 where they are integers.

    known: what the rows have instead, if any; a text is a number where nothing is known.
    """
    shape = (count, *spec.shape[1:])
    dtype = DATATYPES[spec.datatype].dtype
    if known or spec.datatype == "BYTES":
        return np.resize(np.array(known or [b"1", b"2"], dtype), shape)
    # SplitMix64 of 0, 1, 2, ...: the import of numpy.random takes 0.01 s of a start.
    bits = np.arange(_SCATTERED, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    shares = (bits >> np.uint64(11)) * 2.0**-53
    # Integers are not zero, by which they cannot be divided.
    numbers = 4 * shares - 2 if dtype.kind == "f" else 1 + (shares >= 0.5)
    # Repeated before any copy in float64 of all rows, which would be large beside a model.
    return np.resize(numbers.astype(dtype), shape)


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
            # The run uses only this thread, whose CPU time is hardly affected by other work of a
            # busy machine; the minimum of several leaves out its effects on the caches.
            start = thread_time()
            session.run(cut, names)
            times.append(thread_time() - start)
            if len(times) >= 3 and sum(times) > _ENOUGH_S:
                break
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
