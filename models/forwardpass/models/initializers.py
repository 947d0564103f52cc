"""Random initial weights, under the names of the literature; biases start at zero.

fan_in is the number of connections into a unit, W's columns; fan_out the number of units that
share a source, W's rows.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import FunctionName


@dataclass(frozen=True, slots=True)
class Initializer:
    """A distribution with mean zero, whose variance follows from a layer's fans."""

    name: str
    variance: Callable[[int, int], float]
    """Maps (fan_in, fan_out) to the variance of a weight."""
    normal: bool
    """Whether it is normal; if not, uniform on (-sqrt(3 variance), sqrt(3 variance))."""

    def draw(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw W of shape (fan_out, fan_in)."""
        fan_out, fan_in = shape
        deviation = math.sqrt(self.variance(fan_in, fan_out))
        if self.normal:
            return rng.normal(0.0, deviation, shape).astype(np.float32)
        limit = math.sqrt(3.0) * deviation
        return rng.uniform(-limit, limit, shape).astype(np.float32)


def _glorot(fan_in: int, fan_out: int) -> float:
    """Glorot and Bengio, AISTATS 2010, equations 12 and 16."""
    return 2.0 / (fan_in + fan_out)


def _he(fan_in: int, fan_out: int) -> float:  # noqa: ARG001 - one signature for all
    """He, Zhang, Ren and Sun, ICCV 2015, equation 10."""
    return 2.0 / fan_in


def _lecun(fan_in: int, fan_out: int) -> float:  # noqa: ARG001 - one signature for all
    """LeCun, Bottou, Orr and Mueller, Efficient BackProp, 1998, equation 16."""
    return 1.0 / fan_in


INITIALIZERS: Mapping[str, Initializer] = MappingProxyType(
    {
        initializer.name: initializer
        for initializer in (
            Initializer("glorot_uniform", _glorot, normal=False),
            Initializer("glorot_normal", _glorot, normal=True),
            Initializer("he_uniform", _he, normal=False),
            Initializer("he_normal", _he, normal=True),
            Initializer("lecun_uniform", _lecun, normal=False),
            Initializer("lecun_normal", _lecun, normal=True),
        )
    }
)
"""Every initializer by name."""

DEFAULT_INITIALIZER: Mapping[FunctionName, str] = MappingProxyType(
    {
        # A relu cuts off half of its inputs; He's factor of two compensates for it, and about as
        # well for its relatives.
        "relu": "he_normal",
        "leaky_relu": "he_normal",
        "prelu": "he_normal",
        "elu": "he_normal",
        "gelu": "he_normal",
        "gelu_tanh": "he_normal",
        "silu": "he_normal",
        "mish": "he_normal",
        "softplus": "he_normal",
        "hard_swish": "he_normal",
        # Klambauer, Unterthiner, Mayr and Hochreiter, NeurIPS 2017: variances of 1 / fan_in.
        "selu": "lecun_normal",
        "sigmoid": "glorot_uniform",
        "tanh": "glorot_uniform",
        "softmax": "glorot_uniform",
        "grouped_softmax": "glorot_uniform",
        "exp": "glorot_uniform",
        "identity": "glorot_uniform",
        "softsign": "glorot_uniform",
        "hard_sigmoid": "glorot_uniform",
        "log_softmax": "glorot_uniform",
    }
)
"""The default initializer of each activation."""


def generators(seed: int | None, count: int) -> list[np.random.Generator]:
    """Return one generator per layer; the first ones do not depend on count.

    seed None takes a different seed from the operating system each time.
    """
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(count)]
