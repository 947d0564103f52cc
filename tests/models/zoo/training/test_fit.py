"""Training on problems whose answer is known."""

import numpy as np

from forwardpass.models import Dense, Network
from forwardpass.models.zoo.training.fit import Schedule, fit

RNG = np.random.default_rng(3)
X = RNG.normal(size=(200, 3))
W = np.array([[1.0, -2.0, 0.5], [0.0, 1.5, 3.0]])
B = np.array([0.25, -1.0])
Y = X @ W.T + B
LINEAR = Network.chain([3, 2])


def schedule(steps: int = 600, decay: float = 0.0, batch: int | None = None) -> Schedule:
    return Schedule(steps=steps, rate=0.05, decay=decay, batch=batch)


def test_a_linear_layer_learns_the_least_squares_solution() -> None:
    learned, bias = fit(LINEAR, X, {"y": Y}, schedule())["L2"]
    np.testing.assert_allclose(learned, W, atol=1e-4)
    np.testing.assert_allclose(bias, B, atol=1e-4)


def test_weight_decay_gives_the_ridge_solution() -> None:
    learned, bias = fit(LINEAR, X, {"y": Y}, schedule(steps=2000, decay=0.5))["L2"]
    centred = X - X.mean(axis=0)
    ridge = np.linalg.solve(
        centred.T @ centred + 0.5 * len(X) * np.eye(3), centred.T @ (Y - Y.mean(axis=0))
    ).T
    np.testing.assert_allclose(learned, ridge, atol=1e-3)
    np.testing.assert_allclose(bias, Y.mean(axis=0) - ridge @ X.mean(axis=0), atol=1e-3)


def test_weights_that_are_not_connected_are_exactly_zero() -> None:
    connected = np.array([[True, False, True], [True, True, False]])
    learned, _ = fit(LINEAR, X, {"y": Y}, schedule(steps=50, decay=0.1), {"L2": connected})["L2"]
    assert ((learned == 0) == ~connected).all()


def test_batches_are_drawn_from_the_seed() -> None:
    first, second = (
        fit(LINEAR, X, {"y": Y}, schedule(steps=40, batch=16))["L2"][0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    other = Schedule(steps=40, rate=0.05, decay=0.0, batch=16, seed=1)
    assert not np.array_equal(first, fit(LINEAR, X, {"y": Y}, other)["L2"][0])


def test_the_network_is_left_as_it_was_and_training_is_in_float64() -> None:
    network = Network.define(3, [Dense("hidden", 4, "tanh"), Dense("y", 2, "identity")])
    before = [layer.W.copy() for layer in network.layers]
    parameters = fit(network, X, {"y": Y}, schedule(steps=5))
    for layer, W_before in zip(network.layers, before, strict=True):
        np.testing.assert_array_equal(layer.W, W_before)
        assert all(array.dtype == np.float64 for array in parameters[layer.name])


def test_a_schedule_reports_itself_in_words() -> None:
    assert "40 steps of Adam over 16 rows" in str(schedule(steps=40, batch=16))
    assert "weight decay 0.5" in str(schedule(decay=0.5))
