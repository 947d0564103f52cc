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
    width = scores.shape[-1]
    kept = min(classes, width)
    order = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[..., :kept]
    top = np.take_along_axis(scores, order, axis=-1)
    texts = np.empty(order.shape, dtype=object)
    texts.ravel()[:] = [
        f"{score:f}:{index}:{labels[index]}".encode() if labels else f"{score:f}:{index}".encode()
        for score, index in zip(top.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return texts
