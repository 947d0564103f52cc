"""Columns of an output and their labels -> what they say: the best label, or all that hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.spec import format_shape


def best_label(columns: NDArray[Any], labels: Sequence[str]) -> Any:
    """Return the label of the largest column: (n,) -> a text, (k, n) -> k of them."""
    return np.asarray(np.array(labels, dtype=object)[columns.argmax(axis=-1)]).tolist()


def labels_above(
    output: str,
    columns: NDArray[Any],
    labels: Sequence[str],
    thresholds: float | Sequence[float],
) -> Any:
    """Return the labels of columns above their threshold: (n,) -> a list, (k, n) -> k of them.

    Raises ValueError unless there is one threshold for all columns or one for each.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape not in ((), (len(labels),)):
        raise ValueError(
            f"output {output!r}: expected one threshold, or one for each of its {len(labels)} "
            f"columns, got {format_shape(limits.shape)}; pass thresholds=0.5, say, or export the "
            "network with thresholds"
        )
    if columns.dtype.kind == "f":
        # A column that is the threshold, as near as its dtype has it, is not above it.
        limits = limits.astype(columns.dtype)
    return _pick(columns > limits, labels)


def _pick(above: NDArray[np.bool_], labels: Sequence[str]) -> Any:
    if above.ndim > 1:
        return [_pick(row, labels) for row in above]
    return [label for label, holds in zip(labels, above.tolist(), strict=True) if holds]
