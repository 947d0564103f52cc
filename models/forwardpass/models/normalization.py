"""Normalizations: of batches, folded into weights, and of layers, row by row.

The second in float64, its derivative, and the error of float32, as follows.

x_i = d_i / s, where d = z - mean(z) and s = sqrt(mean(d^2) + epsilon), over the values of a row.

Bound of the error, for z that is off by at most e, after Higham as in `rounding`. The mean is
rounded as a sum of n, so that each deviation is off by at most

    D_i = (e_i + m)(1 + u) + u |d_i|,  m = mean(e) + gamma_{n+2} mean(|z| + e)

By the triangle inequality for the norm sqrt(mean(d^2)), and since sqrt(t^2 + epsilon) grows no
faster than t, s is then off by at most r = sqrt(mean(D^2)), and it is never below sqrt(epsilon).
With t = max(s - r, sqrt(epsilon)), the quotient is off by at most

    D_i / t + |d_i| r / (s t)

and never by more than |x_i| + sqrt(n), as no x is beyond sqrt(n). The roundings after that are
relative: a sum of n squares, whose root halves its error, and a few operations: gamma_{n+10}.

It is one of an implementation that subtracts the mean before it squares, as the operator's
definition does. The mean of the squares less the square of the mean would lose all digits of a row
that is far from zero.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.errors import NetworkError

if TYPE_CHECKING:
    from forwardpass.models.activations import AnyActivation

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Batch normalization of a layer's sums as it is after training, then a function.

    a = f(scale (z - mean) / sqrt(variance + epsilon) + bias), with the mean and the variance that
    training kept, never those of the rows of a call: an answer would depend on the other rows.
    `Network.define` folds it into W and b, in float64, and rounds once. Each number is one for all
    units, or (units,).
    """

    mean: ArrayLike
    variance: ArrayLike
    scale: ArrayLike = 1.0
    bias: ArrayLike = 0.0
    epsilon: float = 1e-5
    """1e-5 in PyTorch, ONNX and Flax, 1e-3 in Keras."""
    then: "AnyActivation" = "identity"
    """The function f."""

    def folded(self, subject: str, W: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
        """Return the W and b of a layer whose sums are the normalized ones.

        Raises NetworkError, which names subject, unless the statistics are numbers that fit the
        units and whose variance plus epsilon is above zero.
        """
        weights, biases = np.asarray(W, np.float64), np.asarray(b, np.float64)
        mean, variance, scale, bias = (
            _one_each(subject, what, getattr(self, what), len(weights))
            for what in ("mean", "variance", "scale", "bias")
        )
        if not (variance + self.epsilon > 0).all():
            raise NetworkError(
                subject,
                expected="variance plus epsilon above zero, for batch_norm",
                got=f"{(variance + self.epsilon).min():g}",
                fix="give the running variance that training kept",
            )
        factor = scale / np.sqrt(variance + self.epsilon)
        return weights * factor[:, np.newaxis], (biases - mean) * factor + bias


def _one_each(subject: str, what: str, values: ArrayLike, units: int) -> Array:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.shape not in ((), (units,)):
        raise NetworkError(
            subject,
            expected=f"a {what} of batch_norm for each of {units} units, or one for all",
            got=f"{array.dtype} of shape {array.shape}",
            fix="give the running statistics that training kept"
            if what in ("mean", "variance")
            else "leave it out if there is none",
        )
    return np.broadcast_to(array.astype(np.float64), (units,))


def normalized(z: Array, epsilon: float) -> Array:
    """Return rows of mean 0, and of variance 1 but for epsilon: (..., n) -> (..., n)."""
    d, s = _parts(z, epsilon)
    return np.asarray(d / s)


def normalized_pulled_back(upstream: Array, z: Array, epsilon: float) -> Array:
    """Return the derivative by z, given the derivative by `normalized(z)`: (..., n) each."""
    d, s = _parts(z, epsilon)
    x = d / s
    return np.asarray((upstream - _mean(upstream) - x * _mean(upstream * x)) / s)


def normalized_bound(
    z: Array, off: Array, epsilon: float, u: float, *, flush: float, largest: float
) -> Array:
    """Bound the error of `normalized(z)` in an arithmetic, given the error of z: (..., n) each.

    u: Its unit roundoff. flush: What a number that is set to zero may have been. largest: Its
    largest number; where one may be beyond it, the bound is infinite.
    """
    n = z.shape[-1]
    d, s = _parts(z, epsilon)
    magnitude = np.abs(z) + off
    m = _mean(off) + _gamma(n + 2, u) * _mean(magnitude) + 4 * flush
    each = (off + m) * (1 + u) + u * np.abs(d) + 2 * flush
    r = np.sqrt(_mean(each * each)) + 4 * flush / math.sqrt(epsilon)
    t = np.maximum(s - r, math.sqrt(epsilon))
    x = np.abs(d) / s
    change = np.minimum(each / t + x * r / t, x + math.sqrt(n))
    bound = change + _gamma(n + 10, u) * (x + change) + 2 * flush
    squares = ((np.abs(d) + each) ** 2).sum(axis=-1, keepdims=True)
    within = np.maximum(squares, magnitude.sum(axis=-1, keepdims=True)) * (1 + _gamma(n + 2, u))
    return np.where(within < largest, bound, np.inf)


def _parts(z: Array, epsilon: float) -> tuple[Array, Array]:
    """Return the deviations d and the root s."""
    d = z - _mean(z)
    return d, np.sqrt(_mean(d * d) + epsilon)


def _mean(values: Array) -> Array:
    return np.asarray(values.mean(axis=-1, keepdims=True))


def _gamma(n: int, u: float) -> float:
    return n * u / (1 - n * u)
