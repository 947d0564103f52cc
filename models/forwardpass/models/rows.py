"""Rows to try a network on: typical ones, and the edges of what it may be sent."""

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.ports import Input
from forwardpass.models.scaling import Scaling

_ONE_HOTS = 16
"""At most so many features are tried alone: a wide input would take longer than it tells."""


def typical_rows(source: Input, count: int) -> NDArray[np.float32]:
    """Return the middle of the input's range, then random rows around it: (count, s_1).

    As many for each further scaling of the input.
    """
    rng = np.random.default_rng(0)
    scaled = np.vstack([np.zeros(source.size), rng.standard_normal((count - 1, source.size))])
    return np.vstack([_unscaled(each, scaled) for each in source.scaled])


def edge_rows(source: Input) -> dict[str, NDArray[np.float32]]:
    """Return rows (s_1,) by what they are; one scale is one standard deviation."""
    size = source.size
    edges = {
        "one scale above the mean": _unscaled(source, np.ones(size)),
        "one scale below the mean": _unscaled(source, -np.ones(size)),
        "1000 scales above the mean": _unscaled(source, np.full(size, 1e3)),
        "1000 scales below the mean": _unscaled(source, np.full(size, -1e3)),
        "zeros": np.zeros(size, np.float32),
        "ones": np.ones(size, np.float32),
        "minus ones": -np.ones(size, np.float32),
        "smallest subnormals": np.full(size, np.finfo(np.float32).smallest_subnormal),
    }
    for feature in np.unique(np.linspace(0, size - 1, _ONE_HOTS, dtype=int)):
        one_hot = np.zeros(size)
        one_hot[feature] = 10.0
        edges[f"feature {feature} alone 10 scales above its mean"] = _unscaled(source, one_hot)
    return edges


def _unscaled(source: Input | Scaling, scaled: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return x such that (x - mean) / scale is about `scaled`, kept within float32."""
    if source.scale is not None:
        scaled = source.scale * scaled
    if source.mean is not None:
        scaled = source.mean + scaled
    limit = np.finfo(np.float32).max
    return np.clip(scaled, -limit, limit).astype(np.float32)
