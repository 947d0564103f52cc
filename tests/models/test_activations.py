import math

import numpy as np
import pytest

from forwardpass.models import ACTIVATIONS

Z = np.array([[-1000.0, -3.0, -1e-9, 0.0, 0.5, 2.0, 1000.0]])


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("identity", lambda z: z),
        ("relu", lambda z: max(0.0, z)),
        ("sigmoid", lambda z: 1 / (1 + math.exp(-z)) if z > -700 else 0.0),
        ("tanh", math.tanh),
        ("exp", lambda z: math.exp(z) if z < 700 else math.inf),
    ],
)
def test_elementwise_functions_are_the_lectures(name, f) -> None:
    expected = [[f(z) for z in Z[0]]]
    with np.errstate(over="ignore"):
        values = ACTIVATIONS[name].function(Z)
    np.testing.assert_allclose(values, expected, rtol=4e-16, atol=0)


def test_sigmoid_keeps_the_relative_accuracy_of_tiny_probabilities() -> None:
    tiny = ACTIVATIONS["sigmoid"].function(np.array([-100.0]))[0]
    assert tiny == pytest.approx(math.exp(-100), rel=1e-15)


def test_softmax_is_over_each_row_and_does_not_overflow() -> None:
    z = np.array([[0.0, math.log(3.0)], [1000.0, 1000.0], [-1000.0, 1000.0]])
    expected = [[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]
    np.testing.assert_allclose(ACTIVATIONS["softmax"].function(z), expected, rtol=4e-16)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_lipschitz_constant_and_span_hold(name) -> None:
    rng = np.random.default_rng(0)
    f = ACTIVATIONS[name]
    z = rng.standard_normal((2000, 3)) * 3
    nearby = z + rng.standard_normal(z.shape) * rng.choice([1e-3, 1.0, 10.0], (2000, 1))
    change = np.abs(f.function(z) - f.function(nearby)).max(axis=1)
    assert (change <= f.lipschitz * np.abs(z - nearby).max(axis=1) + 1e-15).all()
    assert (change <= f.span).all()
