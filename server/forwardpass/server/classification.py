"""Triton's classification extension: the highest columns of an output, as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def classify(scores: NDArray[Any], classes: int, labels: Sequence[str]) -> NDArray[Any]:
    """Return the `classes` highest of each row, highest first: (..., n) -> (..., min(k, n)).

    Elements are bytes, `score:index` or `score:index:label`, as Triton's clients read them;
    equal scores keep the order of their columns.
    """
    if scores.ndim == 0:
        scores = scores.reshape(1)
    # Descending by sorting the reverse ascending, which is stable for any dtype; NaN, which
    # sorts highest, is put last.
    rank = np.argsort(scores[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    order = scores.shape[-1] - 1 - rank
    if scores.dtype.kind == "f":
        missing = np.isnan(np.take_along_axis(scores, order, axis=-1))
        order = np.take_along_axis(order, np.argsort(missing, axis=-1, kind="stable"), axis=-1)
    order = order[..., :classes]
    top = np.take_along_axis(scores, order, axis=-1)
    texts = np.empty(order.shape, dtype=object)
    texts.ravel()[:] = [
        _text(score, index, labels)
        for score, index in zip(top.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return texts


def _text(score: float, index: int, labels: Sequence[str]) -> bytes:
    value = f"{score:f}" if isinstance(score, float) else str(int(score))
    label = labels[index] if index < len(labels) else ""
    return (f"{value}:{index}:{label}" if label else f"{value}:{index}").encode()
