"""The proof that a graph computes what its network defines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import ExportProofError
from forwardpass.models.evaluate import load_graph
from forwardpass.models.forward import propagate
from forwardpass.models.rounding import bounds_of
from forwardpass.models.rows import edge_rows, typical_rows

if TYPE_CHECKING:
    from forwardpass.models.network import Network

_TYPICAL = 16
"""Random rows tried besides the edges."""


@dataclass(frozen=True, slots=True)
class OutputProof:
    """How far one output of the graph was from the reference, over typical rows."""

    largest_error: float
    """Absolute."""
    relative_error: float
    """largest_error over the largest magnitude that the reference gives for this output."""
    largest_bound: float
    """What float32 rounding would have explained, at most; absolute."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was shown: every element of every row tried is within its rounding bound."""

    runtime: str
    """What ran the graph: name and version."""
    rows: int
    """Number of rows tried, typical ones and edges."""
    outputs: Mapping[str, OutputProof]
    """By the outputs' names, in their order."""


def prove(model: bytes, network: "Network") -> Proof:
    """Run a serialized graph against the network's forward propagation, and compare.

    Tried are typical rows and edge rows, in one batch and some of them alone. Every element
    has to be within `rounding_bound`; where that is infinite, float32 may overflow and there
    is nothing to compare.

    Raises ExportProofError for the first output that is not, or for which there was nothing
    to compare at all.
    """
    edges = edge_rows(network.input)
    typical = typical_rows(network.input, _TYPICAL)
    rows = np.vstack([typical, *edges.values()])
    labels = [*(f"typical row {index}" for index in range(len(typical))), *edges]
    values = propagate(network, rows)
    bounds = bounds_of(network, rows, values)

    graph = load_graph(model)
    every = slice(None)
    errors = {}
    # Last the whole batch, whose errors are kept.
    for chosen in (slice(0, 1), slice(len(typical), len(typical) + 1), slice(-1, None), every):
        answers = graph.run(rows[chosen])
        for name, bound in bounds.items():
            compared = _Compared(name, values[name][chosen], bound[chosen], labels[chosen])
            errors[name] = compared.error(answers[name], graph.runtime)
    return Proof(
        graph.runtime,
        len(rows),
        MappingProxyType(
            {
                name: _summary(name, errors[name], values[name], bound, len(typical))
                for name, bound in bounds.items()
            }
        ),
    )


@dataclass(frozen=True, slots=True)
class _Compared:
    """One output for some rows: what the reference says."""

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
