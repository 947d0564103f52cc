"""Backpropagation: the gradient of a network's cost by its parameters, in float64.

Source: the UFLDL tutorial (Ng et al.), "Backpropagation Algorithm", for any graph of layers:
the gradients from all readers of a layer add up. Parameters are separate from the network, whose
own are float32: training takes smaller steps than float32 can represent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import AnyActivation, activation_of
from forwardpass.models.categorical import Categorical
from forwardpass.models.derivatives import pulled_back
from forwardpass.models.forward import filled, scaled
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input
from forwardpass.models.zoo.stored import Features, Parameters, numbers

Array: TypeAlias = NDArray[np.float64]

# The cost of one row, from z and y, the desired a. Each is the cost whose derivative by z is
# a - y: half the squared error, and the two cross-entropies.
_COSTS: Mapping[AnyActivation, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "identity": lambda z, y: ((z - y) ** 2).sum(axis=1) / 2,
        "sigmoid": lambda z, y: (np.logaddexp(0, z) - y * z).sum(axis=1),
        "softmax": lambda z, y: np.logaddexp.reduce(z, axis=1) - (y * z).sum(axis=1),
    }
)


@dataclass(frozen=True)
class Pass:
    """The values of one forward pass, by layer name: (N, units) each."""

    z: Mapping[str, Array]
    a: Mapping[str, Array]
    """Activations, including what layers read of each input, under its name."""


def propagate(network: Network, parameters: Parameters, x: Features) -> Pass:
    """Compute every z and a of raw features x, with the given parameters."""
    z: dict[str, Array] = {}
    rows = x if isinstance(x, Mapping) else {network.input.name: x}
    a = {source.name: _read_of(source, rows[source.name]) for source in network.inputs}
    for layer in network.layers:
        W, b = parameters[layer.name]
        z[layer.name] = _read(layer, a) @ W.T + b
        a[layer.name] = activation_of(layer.activation).function(z[layer.name])
    return Pass(z, a)


def cost(network: Network, parameters: Parameters, x: Features, y: Mapping[str, Array]) -> float:
    """Return the mean over the rows of the summed costs of the outputs named in y.

    x is raw; y has the desired values of these outputs, which show activations, (N, width)
    each. The cost depends on the activation function: half the squared error for identity, the
    cross-entropy for sigmoid and softmax. Raises KeyError for another one, or an unknown output.
    """
    forward = propagate(network, parameters, x)
    return sum(
        float(_COSTS[network.layer(name).activation](forward.z[name], wanted).mean())
        for name, wanted in _by_layer(network, y).items()
    )


def gradient(
    network: Network, parameters: Parameters, x: Features, y: Mapping[str, Array]
) -> Parameters:
    """Return the derivative of `cost` by every W and b.

    Raises KeyError like `cost`.
    """
    forward = propagate(network, parameters, x)
    a = forward.a
    wanted = _by_layer(network, y)
    # By layer name, the derivative by its a, summed over the readers visited so far.
    upstream = {name: np.zeros_like(values) for name, values in a.items()}
    read = {name for layer in network.layers for name in layer.reads}
    gradients: dict[str, tuple[Array, Array]] = {}
    for layer in reversed(network.layers):
        delta = np.zeros_like(a[layer.name])
        if layer.name in read:
            delta += pulled_back(layer.activation, upstream[layer.name], forward.z[layer.name])
        if layer.name in wanted:
            delta += (a[layer.name] - wanted[layer.name]) / len(numbers(x))
        gradients[layer.name] = (delta.T @ _read(layer, a), delta.sum(axis=0))
        _pass_back(layer, delta @ parameters[layer.name][0], upstream)
    return gradients


def _read_of(source: Input | Categorical, rows: NDArray[Any]) -> Array:
    """Return what layers read of an input, in float64 all along."""
    if isinstance(source, Categorical):
        return source.read(rows)
    return scaled(filled(rows, source), source)


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
