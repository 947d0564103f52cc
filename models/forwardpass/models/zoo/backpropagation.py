"""Backpropagation: the gradient of a network's cost in its parameters, in float64.

Source: the UFLDL tutorial (Ng et al.), "Backpropagation Algorithm", on any graph of layers:
what comes back from all that read a layer adds up. Parameters are apart from the network,
whose own are float32: training takes steps smaller than that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.zoo.stored import Parameters

Array: TypeAlias = NDArray[np.float64]

# f'(z), from a = f(z).
_SLOPES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "identity": np.ones_like,
        "relu": lambda a: np.where(a > 0, 1.0, 0.0),
        "sigmoid": lambda a: a * (1 - a),
        "tanh": lambda a: 1 - a * a,
    }
)

# The cost of one row, from z and what a should be. Each is the one whose derivative in z is
# a - y: half the squared error, and the two cross-entropies.
_COSTS: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "identity": lambda z, y: ((z - y) ** 2).sum(axis=1) / 2,
        "sigmoid": lambda z, y: (np.logaddexp(0, z) - y * z).sum(axis=1),
        "softmax": lambda z, y: np.logaddexp.reduce(z, axis=1) - (y * z).sum(axis=1),
    }
)


@dataclass(frozen=True)
class Pass:
    """What one forward pass computed, by layer name: (N, units) each."""

    z: Mapping[str, Array]
    a: Mapping[str, Array]
    """The scaled input too, under its name."""


def propagate(network: Network, parameters: Parameters, x: Array) -> Pass:
    """Compute every z and a of raw features x (N, n), with other parameters than the network's."""
    z: dict[str, Array] = {}
    a = {network.input.name: _scaled(network, x)}
    for layer in network.layers:
        W, b = parameters[layer.name]
        z[layer.name] = _read(layer, a) @ W.T + b
        a[layer.name] = ACTIVATIONS[layer.activation].function(z[layer.name])
    return Pass(z, a)


def cost(network: Network, parameters: Parameters, x: Array, y: Mapping[str, Array]) -> float:
    """Return the mean over the rows of the summed costs of the outputs named in y.

    x is (N, n), raw; y says what these outputs, which show activations, should be, (N, width)
    each. The cost follows from the activation function: half the squared error of identity,
    the cross-entropy of sigmoid and softmax. Raises KeyError for another, or no such output.
    """
    forward = propagate(network, parameters, x)
    return sum(
        float(_COSTS[network.layer(name).activation](forward.z[name], wanted).mean())
        for name, wanted in _by_layer(network, y).items()
    )


def gradient(
    network: Network, parameters: Parameters, x: Array, y: Mapping[str, Array]
) -> Parameters:
    """Return the derivative of `cost` in every W and b."""
    a = propagate(network, parameters, x).a
    wanted = _by_layer(network, y)
    # By layer name, the derivative in its a, summed over the readers met so far.
    upstream = {name: np.zeros_like(values) for name, values in a.items()}
    gradients: dict[str, tuple[Array, Array]] = {}
    for layer in reversed(network.layers):
        delta = np.zeros_like(a[layer.name])
        if layer.activation in _SLOPES:
            delta += upstream[layer.name] * _SLOPES[layer.activation](a[layer.name])
        if layer.name in wanted:
            delta += (a[layer.name] - wanted[layer.name]) / len(x)
        gradients[layer.name] = (delta.T @ _read(layer, a), delta.sum(axis=0))
        _pass_back(layer, delta @ parameters[layer.name][0], upstream)
    return gradients


def _scaled(network: Network, x: Array) -> Array:
    """Return (x - mean) / scale."""
    if network.input.mean is not None:
        x = x - network.input.mean
    if network.input.scale is not None:
        x = x / network.input.scale
    return x


def _by_layer(network: Network, y: Mapping[str, Array]) -> dict[str, Array]:
    layers = {output.name: output.layer for output in network.outputs}
    return {layers[name]: wanted for name, wanted in y.items()}


def _read(layer: Layer, a: Mapping[str, Array]) -> Array:
    return np.concatenate([a[name] for name in layer.reads], axis=1)


def _pass_back(layer: Layer, through_W: Array, upstream: dict[str, Array]) -> None:
    start = 0
    for name in layer.reads:
        stop = start + upstream[name].shape[1]
        upstream[name] += through_W[:, start:stop]
        start = stop
