"""Triton's classification extension: the highest columns of an output, as text."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.verdicts import decides_alone, labels_of_rows, ranked

MAX_RANKED = 2**22
"""Maximum number of scores that are ranked for one call: each takes some 40 bytes meanwhile."""
MAX_TEXTS = 2**20
"""Maximum number of classes in a reply: each is a text, and takes some 150 bytes meanwhile."""


def by_row(scores: NDArray[Any], *, batched: bool) -> NDArray[Any]:
    """Flatten scores that Triton ranks together: (n, a, b) -> (n, a * b), or -> (n * a * b,).

    batched: Whether axis 0 is an axis of rows, each ranked by itself. Up to rank 2 the
    scores are returned unchanged: the last axis is ranked.
    """
    if scores.ndim <= 2:
        return scores
    return scores.reshape(len(scores), math.prod(scores.shape[1:])) if batched else scores.ravel()


def classify(scores: NDArray[Any], classes: int, names: ColumnNames) -> NDArray[Any]:
    """Return the `classes` highest of each row, highest first: (..., n) -> (..., min(k, n)).

    Elements are bytes, `score:index` or `score:index:label`, as Triton's clients read them;
    equal scores keep the order of their columns. NaN comes last, and has no label. Where one
    column decides for itself, its score comes with the verdict: `0.02:0:benign`.
    """
    if scores.ndim == 0:
        scores = scores.reshape(1)
    order = ranked(scores)[..., :classes]
    top = np.take_along_axis(scores, order, axis=-1)
    texts = np.empty(order.shape, dtype=object)
    if scores.shape[-1] == 1 and decides_alone(names):
        # A label that does not apply is left out: a single one below its threshold.
        labels = labels_of_rows("", scores.ravel()[:, np.newaxis], names)
        indices = [names.labels.index(label) if label in names.labels else 0 for label in labels]
        labels = [label if label in names.labels else "" for label in labels]
    else:
        indices = order.ravel().tolist()
        labels = [names.labels[i] if i < len(names.labels) else "" for i in indices]
    texts.ravel()[:] = [
        _text(score, index, label)
        for score, index, label in zip(top.ravel().tolist(), indices, labels, strict=True)
    ]
    return texts


def _text(score: float, index: int, label: str | None) -> bytes:
    value = f"{score:f}" if isinstance(score, float) else str(int(score))
    # A NaN has no label.
    named = label and score == score
    return (f"{value}:{index}:{label}" if named else f"{value}:{index}").encode()
