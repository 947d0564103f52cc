"""Training: Adam on a network's cost with weight decay, in float64, reproducible."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network
from forwardpass.models.zoo.stored import Features, Parameters, numbers, take
from forwardpass.models.zoo.training.backpropagation import Array, cost, gradient

logger = logging.getLogger(__name__)

# The defaults of Adam, arXiv:1412.6980, algorithm 1.
_BETA1 = 0.9
_BETA2 = 0.999
_EPSILON = 1e-8

_REPORTS = 5


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    rate: float
    """Initial step size of Adam; half a cosine takes it to 0."""
    decay: float
    """Weight decay: the lambda of lambda/2 * sum(W^2), added to the cost; not for biases."""
    batch: int | None = None
    """Number of rows drawn for each step; None takes all."""
    seed: int = 0
    """Seed for drawing rows; a network's initial parameters have a seed of their own."""

    def __str__(self) -> str:
        rows = "all rows" if self.batch is None else f"{self.batch} rows"
        return (
            f"{self.steps} steps of Adam over {rows}, rate {self.rate:g} falling by a cosine, "
            f"weight decay {self.decay:g}, float64"
        )


def fit(
    network: Network,
    x: Features,
    y: Mapping[str, Array],
    schedule: Schedule,
    connected: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Parameters:
    """Return trained parameters, starting from the network's own.

    x is raw; y as in `cost`. connected says, by layer name and in the shape of W, which
    weights exist: the others stay exactly zero.
    """
    masks = {name: np.where(there, 1.0, 0.0) for name, there in (connected or {}).items()}
    parameters = {
        layer.name: (
            layer.W.astype(np.float64) * masks.get(layer.name, 1.0),
            layer.b.astype(np.float64),
        )
        for layer in network.layers
    }
    adam = Adam([array for pair in parameters.values() for array in pair])
    count = len(numbers(x))
    draw = np.random.default_rng(schedule.seed)
    for step in range(schedule.steps):
        if step % -(-schedule.steps // _REPORTS) == 0:
            logger.info("step %5d: cost %.5f", step, cost(network, parameters, x, y))
        rows = slice(None) if schedule.batch is None else draw.integers(count, size=schedule.batch)
        slopes = gradient(network, parameters, take(x, rows), {name: y[name][rows] for name in y})
        directions = []
        for name, (W, _) in parameters.items():
            dW, db = slopes[name]
            directions += [(dW + schedule.decay * W) * masks.get(name, 1.0), db]
        adam.step(directions, schedule.rate * (1 + cos(pi * step / schedule.steps)) / 2)
    logger.info("step %5d: cost %.5f", schedule.steps, cost(network, parameters, x, y))
    return parameters


class Adam:
    """Adam on arrays that it changes in place. Source: arXiv:1412.6980, algorithm 1."""

    def __init__(self, values: list[Array]) -> None:
        self._values = values
        self._first = [np.zeros_like(value) for value in values]
        self._second = [np.zeros_like(value) for value in values]
        self._steps = 0

    def step(self, gradients: list[Array], rate: float) -> None:
        """Take one step against the gradients of the values, in their order."""
        self._steps += 1
        unbias_first = 1 - _BETA1**self._steps
        unbias_second = 1 - _BETA2**self._steps
        for value, first, second, slope in zip(
            self._values, self._first, self._second, gradients, strict=True
        ):
            first += (1 - _BETA1) * (slope - first)
            second += (1 - _BETA2) * (slope**2 - second)
            value -= rate * (first / unbias_first) / (np.sqrt(second / unbias_second) + _EPSILON)
