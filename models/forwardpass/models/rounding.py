"""A bound on the error of float32 against the reference, derived from rounding alone.

Running error analysis after Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
sections 3.1 (inner products, in any order of summation), 3.3 (running error analysis) and 3.5
(matrix products). u = 2^-24 is the unit roundoff and gamma_n = n u / (1 - n u). If a, with an error
of at most d_a, enters a layer of n inputs, then the computed z is off by at most

    |W| d_a + gamma_{n+1} (|W| (|a| + d_a) + |b|)

with or without fused multiply-add, plus losses by underflow. An activation multiplies its
argument's error by its Lipschitz constant and adds its implementation's error; exp has no such
constant, but e^(z + d) differs from e^z by exactly e^z (e^d - 1). The implementation's error may
grow with |z|, which is at most the reference's and the error of that. Layer normalization has a
bound of its own: see `normalization`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import (
    UNIT_ROUNDOFF,
    AnyActivation,
    GroupedSoftmax,
    LayerNorm,
    activation_of,
)
from forwardpass.models.categorical import Categorical
from forwardpass.models.feeds import Rows, read_feed
from forwardpass.models.forward import filled, propagate
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.normalization import normalized, normalized_bound
from forwardpass.models.ports import Input
from forwardpass.models.scaling import Scaling

# The surplus covers the rounding, at 2^-53, of the float64 reference and of the bound itself.
_U = UNIT_ROUNDOFF * (1 + 2.0**-20)
_MAX = float(np.finfo(np.float32).max)
# A runtime may flush every subnormal, read or written, to zero. Twice the smallest normal
# number also covers the effect on later operations of the same layer.
_FLUSH = 2.0**-125


def rounding_bound(network: Network, x: Any) -> dict[str, NDArray[np.float64]]:
    """Bound |float32 graph - float64 reference| for x: the shapes of `forward`'s outputs.

    It holds for every element, any order of summation, and runtimes that fuse multiply and
    add or flush subnormal numbers to zero. If float32 may overflow, the bound is infinite.

    Raises TensorError like `forward`.
    """
    rows, single = read_feed(network, x)
    bounds = bounds_of(network, rows, propagate(network, rows))
    return {name: bound[0] for name, bound in bounds.items()} if single else bounds


def bounds_of(
    network: Network, rows: Rows, values: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return `rounding_bound` for rows whose `propagate` is values."""
    # Infinities, and NaN from two of them, become an infinite bound.
    with np.errstate(over="ignore", invalid="ignore"):
        read: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for source in network.inputs:
            read |= _of_input(source, rows[source.name], values, len(network.inputs))
        bounds: dict[str, NDArray[np.float64]] = {}
        for number, layer in enumerate(network.layers, start=2):
            a = values[graph_names.a(number)]
            sources = [read[name] for name in layer.reads]
            inputs = np.concatenate([source for source, _ in sources], axis=1)
            inputs_bound = np.concatenate([bound for _, bound in sources], axis=1)
            z_bound = _sum_bound(layer, inputs, inputs_bound)
            a_bound = _activation_bound(layer.activation, values[graph_names.z(number)], a, z_bound)
            bounds |= {graph_names.z(number): z_bound, graph_names.a(number): a_bound}
            read[layer.name] = a, a_bound
    return {
        output.name: bounds[graph_names.shown(output, network.number(output.layer))]
        for output in network.outputs
    }


def _of_input(
    source: Input | Categorical,
    rows: NDArray[Any],
    values: dict[str, NDArray[np.float64]],
    count: int,
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return what layers read of one of `count` inputs, and its error."""
    read = values[graph_names.of_input(source.name, count)]
    if isinstance(source, Categorical):
        # Rows of a constant, each times one plus zeros: exact, unless subnormals are flushed.
        return {source.name: (read, np.full_like(read, 0.0 if source.values is None else _FLUSH))}
    x = filled(rows, source)
    return {source.name: (read, _scaling_bound(source, x))} | {
        each.name: (values[graph_names.scaled(each.name)], _scaling_bound(each, x))
        for each in source.scalings
    }


def rounded_up(value: float) -> float:
    """Round up to three digits: the last bits depend on the order in which BLAS adds."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / step) * step:.2e}")


def _gamma(n: int) -> float:
    return n * _U / (1 - n * _U)


def _scaling_bound(source: Input | Scaling, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bound the error of (x - mean) / scale; rows is x."""
    value = rows.astype(np.float64)
    bound = np.zeros_like(value)
    if source.mean is not None:
        value = value - source.mean
        bound = _U * np.abs(value) + 3 * _FLUSH
        bound[~(np.abs(value) + bound < _MAX)] = np.inf
    if source.scale is not None:
        scale = source.scale.astype(np.float64)
        value = value / scale
        bound = (1 + _U) * (bound + _FLUSH) / scale + _U * np.abs(value) + _FLUSH
        bound[~(np.abs(value) + bound < _MAX)] = np.inf
    return bound


def _sum_bound(
    layer: Layer, a: NDArray[np.float64], a_bound: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bound the error of z = W a + b, given the error of a."""
    n = layer.W.shape[1]
    gamma = _gamma(n + 1)
    W, b = np.abs(layer.W.T).astype(np.float64), np.abs(layer.b)
    magnitude = np.abs(a) + a_bound
    sums = magnitude @ W + b
    # Each of W, a and b may be flushed when read, each product and partial sum when written.
    underflow = magnitude.sum(axis=1, keepdims=True) + W.sum(axis=0) + (2 * n + 2)
    bound = a_bound @ W + gamma * sums + _FLUSH * underflow
    # A partial sum may overflow even if the whole sum is small.
    bound[~(sums * (1 + gamma) < _MAX)] = np.inf
    return np.asarray(bound)


def _activation_bound(
    activation: AnyActivation,
    z: NDArray[np.float64],
    a: NDArray[np.float64],
    z_bound: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Bound the error of a = f(z), given the error of z."""
    if isinstance(activation, GroupedSoftmax):
        groups = zip(*map(activation.split, (z, a, z_bound)), strict=True)
        return np.hstack([_activation_bound("softmax", *group) for group in groups])
    if isinstance(activation, LayerNorm):
        bound = _norm_bound(activation, z, z_bound)
        return _activation_bound(activation.then, activation.normalize(z), a, bound)
    f = activation_of(activation)
    if f.operator is None:
        return z_bound
    if f.name == "exp":
        change = a * np.expm1(z_bound)
        bound = change + f.error * (a + change) + _FLUSH
        bound[~(a + bound < _MAX)] = np.inf
        return np.asarray(bound)
    sums: NDArray[np.float64] | float = 0.0
    if f.name in ("softmax", "log_softmax"):
        # Each a depends on the whole row, and on the order of its sum; an error of the sum is
        # relative, and so an absolute one of its logarithm.
        z_bound = z_bound.max(axis=1, keepdims=True)
        sums = _gamma(z.shape[1]) * (a if f.name == "softmax" else 1.0)
    bound = np.minimum(f.lipschitz * z_bound, f.span) + sums + f.error + _FLUSH
    if f.relative_error:
        grown = np.abs(a) if f.name == "log_softmax" else np.abs(z)
        bound = bound + f.relative_error * (grown + f.lipschitz * z_bound)
        bound[~(np.abs(a) + bound < _MAX)] = np.inf
    return np.where(np.isfinite(z_bound), bound, np.inf)


def _norm_bound(
    f: LayerNorm, z: NDArray[np.float64], z_bound: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bound the error of scale x + bias, where x is z normalized, given the error of z."""
    x = np.abs(normalized(z, f.epsilon))
    x_bound = normalized_bound(z, z_bound, f.epsilon, _U, flush=_FLUSH, largest=_MAX)
    scale, bias = map(np.abs, f.parameters(z.shape[1]))
    # Scale, bias, product and sum may each be flushed.
    flushed = _FLUSH * (x + x_bound + 3)
    grown = scale * (x + x_bound) + bias
    bound = scale * x_bound + _gamma(2) * grown + flushed
    return np.where(grown * (1 + _gamma(2)) < _MAX, bound, np.inf)
