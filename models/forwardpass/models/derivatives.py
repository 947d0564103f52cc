"""Derivatives of the activation functions, in float64: what backpropagation multiplies by."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import (
    ACTIVATIONS,
    Activation,
    AnyActivation,
    Elu,
    GroupedSoftmax,
    HardSigmoid,
    LayerNorm,
    LeakyRelu,
    PRelu,
    activation_of,
    last_of,
    slopes_of,
)
from forwardpass.models.normalization import normalized_pulled_back

Array: TypeAlias = NDArray[np.float64]
Ends: TypeAlias = Sequence[Array]
"""One z, or the two between which means are taken."""


def is_kinked(activation: AnyActivation) -> bool:
    """Whether the derivative of a function jumps."""
    # That of an elu does unless alpha is 1, which is the one without a parameter.
    last = last_of(activation)
    return activation_of(last).name in _KINKED or isinstance(last, Elu)


_KINKED = ("relu", "leaky_relu", "prelu", "selu", "hard_sigmoid", "hard_swish")


def pulled_back(activation: AnyActivation, upstream: Array, *z: Array) -> Array:
    """Return the derivative by z, given the derivative by a = f(z): (N, units) each.

    At one z it is the derivative there; where it jumps, that of the lower side. Between two it is
    the mean, exactly for functions of straight pieces, else by the trapezoidal rule.
    """
    if isinstance(activation, GroupedSoftmax):
        groups = zip(*map(activation.split, (upstream, *z)), strict=True)
        return np.hstack([pulled_back("softmax", *group) for group in groups])
    if isinstance(activation, LayerNorm):
        by = pulled_back(activation.then, upstream, *map(activation.normalize, z))
        by = by * activation.parameters(by.shape[-1])[0]
        return _mean([normalized_pulled_back(by, each, activation.epsilon) for each in z])
    f = activation_of(activation)
    if f.name in _JACOBIANS:
        return _mean([_JACOBIANS[f.name](upstream, f.function(each)) for each in z])
    return upstream * _slope(activation, f, z)


def _slope(activation: AnyActivation, f: Activation, z: Ends) -> Array:
    units = z[0].shape[-1]
    match _WITH_PARAMETER.get(f.name, activation) if activation == f.name else activation:
        case "relu":
            return _above_zero(*z)
        case LeakyRelu(below):
            return below + (1 - below) * _above_zero(*z)
        case PRelu() | "prelu":
            slopes = np.array(slopes_of(activation, units))
            return slopes + (1 - slopes) * _above_zero(*z)
        case Elu(alpha):
            return _exponential_below(f, z, alpha, 1.0)
        case "selu":
            return _exponential_below(f, z, -f.low, float(f.function(np.array(1.0))))
        case HardSigmoid(factor):
            return _between_0_and_1(factor, z)
        case "gelu" | "gelu_tanh" | "silu" | "mish" | "hard_swish":
            # z times a share: of a product, the change is each change times the other's mean.
            shares, slope = _SHARES[f.name](z)
            return _mean(shares) + _mean(z) * slope
        case _:
            return _mean([_SLOPES[f.name](each, f.function(each)) for each in z])


_WITH_PARAMETER: Mapping[str, AnyActivation] = MappingProxyType(
    {"leaky_relu": LeakyRelu(), "elu": Elu(), "hard_sigmoid": HardSigmoid()}
)


def _mean(values: Ends) -> Array:
    return sum(values[1:], values[0]) / len(values)


def _above_zero(*z: Array) -> Array:
    """Return 1 where z is above 0, or the part of the way between two that is."""
    magnitude = sum(map(np.abs, z))
    positive = sum(np.maximum(each, 0.0) for each in z)
    return np.divide(positive, magnitude, out=np.zeros_like(z[0]), where=magnitude != 0)


def _between_0_and_1(factor: float, z: Ends) -> Array:
    """Return the slope of factor z + 1/2, clipped to 0 and 1."""
    ends = [_above_zero(*(factor * each + offset for each in z)) for offset in (0.5, -0.5)]
    return factor * (ends[0] - ends[1])


def _exponential_below(f: Activation, z: Ends, at_zero: float, above: float) -> Array:
    """Return a slope that is f(z) + at_zero below 0, and a number above."""
    # Below 0 it goes from the lower end to 0, where it is at_zero.
    below = _mean([np.minimum(f.function(each), 0.0) for each in z]) + at_zero
    return below + (above - below) * _above_zero(*z)


def _bell(a: Array) -> Array:
    return a * (1 - a)


def _sigmoid(z: Array) -> Array:
    return ACTIVATIONS["sigmoid"].function(z)


def _gelu(z: Ends) -> tuple[Ends, Array]:
    # The normal distribution, whose derivative is its density.
    f = ACTIVATIONS["gelu"].function
    shares = [np.divide(f(each), each, out=np.full_like(each, 0.5), where=each != 0) for each in z]
    return shares, _mean([np.exp(-each * each / 2) / math.sqrt(2 * math.pi) for each in z])


def _gelu_tanh(z: Ends) -> tuple[Ends, Array]:
    factor, cubic = math.sqrt(8 / math.pi), 0.044715
    inner = [factor * (1 + cubic * each * each) for each in z]
    shares = [_sigmoid(each * slope) for each, slope in zip(z, inner, strict=True)]
    slope = _mean(inner) + _mean(z) ** 2 * 2 * factor * cubic
    return shares, _mean([_bell(share) for share in shares]) * slope


def _silu(z: Ends) -> tuple[Ends, Array]:
    shares = [_sigmoid(each) for each in z]
    return shares, _mean([_bell(share) for share in shares])


def _mish(z: Ends) -> tuple[Ends, Array]:
    shares = [np.tanh(np.logaddexp(0.0, each)) for each in z]
    slope = _mean([1 - share * share for share in shares])
    return shares, slope * _mean([_sigmoid(each) for each in z])


def _hard_swish(z: Ends) -> tuple[Ends, Array]:
    return [np.clip(each / 6 + 0.5, 0, 1) for each in z], _between_0_and_1(1 / 6, z)


_SHARES: Mapping[str, Callable[[Ends], tuple[Ends, Array]]] = MappingProxyType(
    {
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "silu": _silu,
        "mish": _mish,
        "hard_swish": _hard_swish,
    }
)
"""Of functions z s(z): s at each z, and the mean of s' over them."""

_SLOPES: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "identity": lambda z, _: np.ones_like(z),
        "sigmoid": lambda _, a: _bell(a),
        "tanh": lambda _, a: 1 - a * a,
        "exp": lambda _, a: a,
        "softplus": lambda z, _: _sigmoid(z),
        "softsign": lambda _, a: (1 - np.abs(a)) ** 2,
    }
)
"""f' of z and a = f(z)."""

_JACOBIANS: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "softmax": lambda g, a: a * (g - (a * g).sum(axis=-1, keepdims=True)),
        "log_softmax": lambda g, a: g - np.exp(a) * g.sum(axis=-1, keepdims=True),
    }
)
"""The derivative by z, from that by a, and a = f(z)."""
