"""The activation functions, and what float32 makes of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Function: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of rounding to nearest float32."""

# onnxruntime 1.32 against the exact value, at every 4th float32 there is: Sigmoid is off by
# at most 2.99 unit roundoffs, Tanh by 5.46; they leave their mathematical range by as much
# (1.00000012 and 1.00000024). Softmax of 10 is off by 2.7 on random rows, and by more the
# wider the row, for its sum: `rounding` adds that. Exp is off by at most 1.28, relative to e^z.
_IMPLEMENTATION_ERROR = 8 * UNIT_ROUNDOFF


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation function f."""

    name: str
    function: Function
    """Rows of z to rows of a, float64; elementwise but for softmax, which is over a row."""
    operator: str | None
    """The ONNX operator; None for the identity, which needs no node."""
    lipschitz: float
    """Largest change of an a, per largest change of the z that it depends on."""
    low: float
    """No value of f is below it."""
    high: float
    """No value of f is above it."""
    error: float
    """Largest error of a float32 implementation at an exact z, sums apart: absolute, of exp
    relative."""
    outputs_only: bool = False
    """Whether no other layer may read it."""

    @property
    def span(self) -> float:
        """Largest distance of two values of f."""
        return self.high - self.low


def _identity(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return z


def _relu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(z, 0.0)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    # e^-|z| never overflows, and keeps the relative accuracy of tiny probabilities.
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def _softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        activation.name: activation
        for activation in (
            Activation("identity", _identity, None, 1.0, -math.inf, math.inf, 0.0),
            Activation("relu", _relu, "Relu", 1.0, 0.0, math.inf, 0.0),
            Activation("sigmoid", _sigmoid, "Sigmoid", 0.25, 0.0, 1.0, _IMPLEMENTATION_ERROR),
            Activation("tanh", np.tanh, "Tanh", 1.0, -1.0, 1.0, _IMPLEMENTATION_ERROR),
            # The Jacobian diag(p) - p p^T has maximum-norm 2 p (1 - p), at most 1/2.
            Activation(
                "softmax",
                _softmax,
                "Softmax",
                0.5,
                0.0,
                1.0,
                _IMPLEMENTATION_ERROR,
                outputs_only=True,
            ),
            # A rate above zero, as Poisson regression gives it; too steep for a hidden layer.
            Activation(
                "exp",
                np.exp,
                "Exp",
                math.inf,
                0.0,
                math.inf,
                _IMPLEMENTATION_ERROR,
                outputs_only=True,
            ),
        )
    }
)
"""Every activation by name."""
