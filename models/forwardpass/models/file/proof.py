"""The proof that a graph computes what its network defines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import ExportProofError
from forwardpass.models.file.runner import Runner, load_graph
from forwardpass.models.forward import forward, propagate
from forwardpass.models.rounding import bounds_of
from forwardpass.models.trial_rows import edge_feed, stacked, typical_feed, unanswered_feed

if TYPE_CHECKING:
    from forwardpass.models.network import Network

_TYPICAL = 16
"""Number of random rows tried besides the edge rows."""


@dataclass(frozen=True, slots=True)
class OutputProof:
    """The error of one output of the graph against the reference, over typical rows."""

    largest_error: float
    """The largest absolute error."""
    relative_error: float
    """The ratio of largest_error to the largest magnitude of this output in the reference."""
    largest_bound: float
    """The largest absolute error that float32 rounding explains."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of a proof: every element of every row tried is within its rounding bound."""

    runtime: str
    """Name and version of the library that ran the graph."""
    rows: int
    """Number of rows tried, typical ones and edges."""
    outputs: Mapping[str, OutputProof]
    """The errors by the outputs' names, in their order."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict does not pickle.
        return Proof, (self.runtime, self.rows, dict(self.outputs))


def prove(model: bytes, network: "Network") -> Proof:
    """Run a serialized graph against the network's forward propagation, and compare.

    Typical rows and edge rows are tried, in one batch and some of them alone. Every element
    has to be within `rounding_bound`; where that is infinite, float32 may overflow and nothing
    is compared.

    Raises ExportProofError for the first output that is not within it, or that could not be
    compared for any row.
    """
    edges = edge_feed(network.inputs)
    typical = typical_feed(network.inputs, _TYPICAL)
    count = len(typical[network.inputs[0].name])
    rows = stacked([typical, *edges.values()])
    labels = [*(f"typical row {index}" for index in range(count)), *edges]
    values = propagate(network, rows)
    bounds = bounds_of(network, rows, values)

    graph = load_graph(model)
    every = slice(None)
    errors = {}
    # The whole batch is last; its errors are kept.
    for chosen in (slice(0, 1), slice(count, count + 1), slice(-1, None), every):
        answers = graph.run({name: part[chosen] for name, part in rows.items()})
        for name, bound in bounds.items():
            compared = _Compared(name, values[name][chosen], bound[chosen], labels[chosen])
            errors[name] = compared.error(answers[name], graph.runtime)
    _check_unanswered(graph, network)
    return Proof(
        graph.runtime,
        len(labels),
        MappingProxyType(
            {
                name: _summary(name, errors[name], values[name], bound, count)
                for name, bound in bounds.items()
            }
        ),
    )


def _check_unanswered(graph: Runner, network: "Network") -> None:
    """Raise ExportProofError unless unknown categories that are refused are answered by NaN."""
    rows = unanswered_feed(network.inputs)
    if rows is None:
        return
    expected, answers = forward(network, rows), graph.run(rows)
    for name, values in expected.items():
        wrong = np.argwhere(np.isnan(values) & ~np.isnan(answers[name]))
        if wrong.size:
            raise ExportProofError(
                f"expected NaN for an unknown category, got {answers[name][tuple(wrong[0])]:.9g} "
                f"from {graph.runtime}",
                name,
            )


@dataclass(frozen=True, slots=True)
class _Compared:
    """The reference's answers for one output and some rows."""

    output: str
    expected: NDArray[np.float64]
    bound: NDArray[np.float64]
    labels: Sequence[str]

    def error(self, answer: NDArray[Any], runtime: str) -> NDArray[np.float64]:
        """Return each element's error, 0 where the bound is infinite.

        Raises ExportProofError for an error beyond its bound.
        """
        if answer.shape != self.expected.shape or answer.dtype != np.float32:
            raise ExportProofError(
                f"expected float32 of shape {self.expected.shape}, "
                f"got {answer.dtype} of shape {answer.shape} from {runtime}",
                self.output,
            )
        sure = np.isfinite(self.bound)
        error = np.zeros_like(self.expected)
        error[sure] = np.abs(answer[sure] - self.expected[sure])
        wrong = np.argwhere(~(error <= self.bound))  # NaN is wrong as well
        if wrong.size:
            row, column = wrong[0]
            raise ExportProofError(
                f"expected {self.expected[row, column]:.9g} +- {self.bound[row, column]:.3g} "
                f"in column {column} for {self.labels[row]} (batch of {len(self.labels)}), "
                f"got {answer[row, column]:.9g} from {runtime}",
                self.output,
            )
        return error


def _summary(
    name: str,
    error: NDArray[np.float64],
    expected: NDArray[np.float64],
    bound: NDArray[np.float64],
    count: int,
) -> OutputProof:
    """Return the figures of the first `count` rows, the typical ones."""
    sure = np.isfinite(bound)
    if not sure.any():
        raise ExportProofError(
            "expected an answer within float32's range for some row, "
            "got only rows for which float32 may overflow; scale the input or the parameters",
            name,
        )
    typical = sure.copy()
    typical[count:] = False
    if typical.any():
        sure = typical
    largest, magnitude = float(error[sure].max()), float(np.abs(expected[sure]).max())
    return OutputProof(largest, largest / magnitude if magnitude else 0.0, float(bound[sure].max()))
