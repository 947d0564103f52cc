"""The quality of a network on rows that training never saw, in words."""

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network, Output
from forwardpass.models.zoo.stored import HeldOut
from forwardpass.proto.verdicts import column_labels

_MAX_COLUMNS = 12
"""Maximum number of columns with a figure each; more share one."""


def figures(network: Network, held_out: HeldOut) -> dict[str, str]:
    """Return accuracy, or error and R2, by name of the outputs that have a truth.

    The error is the root mean square, in the output's own unit. R2 is 1 minus the ratio of the
    squared error to that of always answering the held-out rows' mean: 1 is perfect, below 0 is
    worse than that mean.
    """
    answers = network(held_out.x)
    texts = {}
    for output in network.outputs:
        if output.name not in held_out.truth:
            continue
        truth = held_out.truth[output.name].astype(np.float64)
        activation = network.layer(output.layer).activation
        if activation == "sigmoid":
            texts[output.name] = _accuracy(answers[output.name], truth)
        elif activation == "softmax":
            right = answers[output.name].argmax(axis=1) == truth.argmax(axis=1)
            texts[output.name] = f"accuracy {right.mean():.4f} ({right.sum()} of {right.size})"
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
    if truth.shape[1] > _MAX_COLUMNS:
        return _error(squared, spread)
    labels = column_labels(output.labels, truth.shape[1]) or tuple(map(str, range(truth.shape[1])))
    units = output.units or ("",) * truth.shape[1]
    return "; ".join(
        f"{label}: {_error(squared[:, column], spread[:, column], unit)}"
        for column, (label, unit) in enumerate(zip(labels, units, strict=True))
    )


def _error(squared: NDArray[np.float64], spread: NDArray[np.float64], unit: str = "") -> str:
    error = f"{np.sqrt(squared.mean()):.3g} {unit}".rstrip()
    return f"error {error}, R2 {1 - squared.sum() / spread.sum():.2f}"
