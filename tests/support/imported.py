"""The checks of every importer: the source's own answers, and an export that is proven."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models import Network, forward
from forwardpass.models.file.export import proven

TOLERANCE = 1e-6
"""Maximum error relative to the largest magnitude of an output: rounding explains no more."""


def assert_imported(
    network: Network, x: NDArray[np.float32], expected: Mapping[str, ArrayLike]
) -> None:
    """Compare a network's outputs with the source's answers to x, computed in float64."""
    answers = forward(network, x)
    assert list(answers) == list(expected)
    for name, values in expected.items():
        theirs = np.asarray(values)
        assert theirs.dtype == np.float64
        assert theirs.shape == answers[name].shape
        error = np.abs(answers[name] - theirs).max() / np.abs(theirs).max()
        print(f"{network}: {name} off by {error:.1e} of the largest magnitude")
        assert error <= TOLERANCE
    proven(network)
