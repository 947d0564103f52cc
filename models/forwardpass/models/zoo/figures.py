"""How well a network does on rows that training never saw, in words."""

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network, Output
from forwardpass.models.zoo.stored import HeldOut

_MOST_COLUMNS = 12
"""A figure for each column up to here, one for all beyond."""


def figures(network: Network, held_out: HeldOut) -> dict[str, str]:
    """Return by output name, for outputs that have a truth: accuracy, or error and R2.

    The error is the root of the mean squared one, in the output's own unit. R2 is 1 less the
    squared error over that of always answering the held-out rows' mean: 1 is perfect, below 0
    worse than that mean.
    """
    answers = network(held_out.x)
    texts = {}
    for output in network.outputs:
        if output.name not in held_out.truth:
            continue
        truth = held_out.truth[output.name].astype(np.float64)
        if network.layer(output.layer).activation == "sigmoid":
            texts[output.name] = _accuracy(answers[output.name], truth)
        else:
            texts[output.name] = _errors(output, answers[output.name], truth)
    return texts


def _accuracy(answer: NDArray[np.float64], truth: NDArray[np.float64]) -> str:
    right = (answer > 0.5) == (truth > 0.5)
    positive = truth > 0.5
    return (
        f"accuracy {right.mean():.4f} ({right.sum()} of {right.size}; "
        f"{(right & positive).sum()} of {positive.sum()} positive)"
    )


def _errors(output: Output, answer: NDArray[np.float64], truth: NDArray[np.float64]) -> str:
    squared = (answer - truth) ** 2
    spread = (truth - truth.mean(axis=0)) ** 2
    if truth.shape[1] > _MOST_COLUMNS:
        return _error(squared, spread)
    labels = output.labels or tuple(str(column) for column in range(truth.shape[1]))
    units = output.units or ("",) * truth.shape[1]
    return "; ".join(
        f"{label}: {_error(squared[:, column], spread[:, column], unit)}"
        for column, (label, unit) in enumerate(zip(labels, units, strict=True))
    )


def _error(squared: NDArray[np.float64], spread: NDArray[np.float64], unit: str = "") -> str:
    error = f"{np.sqrt(squared.mean()):.3g} {unit}".rstrip()
    return f"error {error}, R2 {1 - squared.sum() / spread.sum():.2f}"
