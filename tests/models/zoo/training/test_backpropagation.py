"""Gradients against finite differences, on a graph with every activation."""

from itertools import product

import numpy as np
import pytest

from forwardpass.models import ActivationName, Dense, Input, Network
from forwardpass.models import propagate as reference
from forwardpass.models.zoo.stored import Parameters
from forwardpass.models.zoo.training.backpropagation import (
    Array,
    cost,
    gradient,
    propagate,
)

RNG = np.random.default_rng(7)
NETWORK = Network.define(
    Input(4, mean=RNG.normal(size=4), scale=RNG.uniform(0.5, 2, 4)),
    [
        Dense("relu", 5, "relu", b=RNG.normal(size=5)),
        Dense("tanh", 4, "tanh", reads="x", b=RNG.normal(size=4)),
        Dense("sigmoid", 3, "sigmoid", reads=("tanh", "x"), b=RNG.normal(size=3)),
        Dense("identity", 3, "identity", reads=("relu", "sigmoid")),
        Dense("regression", 2, "identity", reads=("identity", "tanh", "x")),
        Dense("probability", 2, "sigmoid", reads="identity"),
        Dense("classes", 3, "softmax", reads=("identity", "sigmoid")),
    ],
    # sigmoid is hidden and an answer at once.
    ["regression", "probability", "classes", "sigmoid"],
)
X = RNG.normal(size=(6, 4))
Y: dict[str, Array] = {
    "regression": RNG.normal(size=(6, 2)),
    "probability": RNG.uniform(size=(6, 2)),
    "classes": RNG.dirichlet([1, 1, 1], size=6),
    "sigmoid": RNG.uniform(size=(6, 3)),
}
PARAMETERS: Parameters = {
    layer.name: (layer.W.astype(np.float64), layer.b.astype(np.float64)) for layer in NETWORK.layers
}


@pytest.mark.parametrize("layer", PARAMETERS)
def test_the_gradient_is_the_slope_of_the_cost(layer: str) -> None:
    slopes = gradient(NETWORK, PARAMETERS, X, Y)[layer]
    step = 1e-5
    for part, (values, slope) in enumerate(zip(PARAMETERS[layer], slopes, strict=True)):
        assert slope.shape == values.shape
        for index in product(*map(range, values.shape)):
            costs = []
            for sign in (1, -1):
                moved = values.copy()
                moved[index] += sign * step
                pair = (moved, PARAMETERS[layer][1]) if part == 0 else (PARAMETERS[layer][0], moved)
                costs.append(cost(NETWORK, {**PARAMETERS, layer: pair}, X, Y))
            measured = (costs[0] - costs[1]) / (2 * step)
            assert measured == pytest.approx(slope[index], rel=1e-5, abs=1e-8)


def test_propagation_is_the_reference_at_the_networks_own_parameters() -> None:
    x = X.astype(np.float32).astype(np.float64)  # the reference rounds its input
    computed, wanted = propagate(NETWORK, PARAMETERS, x), reference(NETWORK, x)
    for number, layer in enumerate(NETWORK.layers, start=2):
        np.testing.assert_allclose(computed.z[layer.name], wanted[f"z{number}"], rtol=1e-12)
        np.testing.assert_allclose(computed.a[layer.name], wanted[f"a{number}"], rtol=1e-12)


def test_an_output_without_a_truth_costs_nothing() -> None:
    only = {"regression": Y["regression"]}
    slopes = gradient(NETWORK, PARAMETERS, X, only)
    assert not np.any(slopes["classes"][0])
    assert not np.any(slopes["probability"][1])
    assert np.any(slopes["relu"][0])


def test_the_cost_of_saturated_units_is_finite() -> None:
    network = Network.define(
        1, [Dense("p", 1, "sigmoid", W=[[1.0]]), Dense("c", 1, "softmax", reads="x", W=[[1.0]])],
        ["p", "c"],
    )  # fmt: skip
    parameters = {layer.name: (layer.W * 1e4, layer.b) for layer in network.layers}
    x, y = np.array([[1.0], [-1.0]]), np.array([[0.0], [1.0]])
    assert cost(network, parameters, x, {"p": y}) == pytest.approx(1e4)
    assert cost(network, parameters, x, {"c": np.ones((2, 1))}) == 0


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_output_whose_activation_has_no_cost_is_refused(activation: ActivationName) -> None:
    network = Network.chain([1, 1], output_activation=activation)
    parameters = {layer.name: (layer.W, layer.b) for layer in network.layers}
    with pytest.raises(KeyError, match=activation):
        cost(network, parameters, np.ones((1, 1)), {"y": np.ones((1, 1))})


def test_a_truth_for_no_output_is_refused() -> None:
    with pytest.raises(KeyError, match="regresion"):
        gradient(NETWORK, PARAMETERS, X, {"regresion": Y["regression"]})
