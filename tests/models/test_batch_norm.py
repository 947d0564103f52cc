"""Batch normalization as a part of a network: folded into the layer before it, or refused."""

from typing import Any

import numpy as np
import pytest

from forwardpass.models import BatchNorm, Dense, Layer, LayerNorm, Network, NetworkError

RNG = np.random.default_rng(4)
W, B = RNG.normal(size=(5, 3)), RNG.normal(size=5)
MEAN, SCALE, BIAS = RNG.normal(size=(3, 5))
VARIANCE = RNG.uniform(0.1, 3, 5)
X = RNG.normal(size=(9, 3)).astype(np.float32)
NORM = BatchNorm(MEAN, VARIANCE, SCALE, BIAS, 0.01, "tanh")


def test_it_is_folded_into_the_layer_and_rounded_once() -> None:
    network = Network.define(3, [Dense("y", activation=NORM, W=W, b=B)])
    weights, biases = np.float32(W).astype(np.float64), np.float32(B).astype(np.float64)
    normal = (X.astype(np.float64) @ weights.T + biases - MEAN) / np.sqrt(VARIANCE + 0.01)
    np.testing.assert_allclose(network(X)["y"], np.tanh(normal * SCALE + BIAS), atol=2e-6)
    factor = SCALE / np.sqrt(VARIANCE + 0.01)
    np.testing.assert_array_equal(network.layers[0].W, np.float32(weights * factor[:, np.newaxis]))
    np.testing.assert_array_equal(network.layers[0].b, np.float32((biases - MEAN) * factor + BIAS))
    assert network.layers[0].activation == "tanh"
    assert len(network.layers) == 1


def test_after_an_activation_it_is_a_layer_of_its_own() -> None:
    alone = BatchNorm(MEAN, VARIANCE, SCALE, BIAS)
    layers = [Dense("relu", 5), Dense("norm", activation=alone, W=np.eye(5)), Dense("y", 2)]
    network = Network.define(3, layers, ["y", "norm"])
    a = np.maximum(X @ network.layers[0].W.T.astype(np.float64), 0)
    wanted = (a - MEAN) / np.sqrt(VARIANCE + 1e-5) * SCALE + BIAS
    np.testing.assert_allclose(network(X)["norm"], wanted, atol=1e-5)


def test_a_chain_takes_it_with_one_number_for_all_units() -> None:
    plain, normal = (
        Network.chain([3, 4, 2], activation, seed=1)
        for activation in ("relu", BatchNorm(0.0, 4.0, then="relu", epsilon=0.0))
    )
    np.testing.assert_array_equal(normal.layers[0].W * 2, plain.layers[0].W)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layer("y", W, B, NORM, "x"), r"Dense of Network.define.*np\.eye"),  # type: ignore[arg-type]
        (lambda: LayerNorm(then=NORM), "folded into weights"),  # type: ignore[arg-type]
        (lambda: Network.chain([3, 4], output_activation=NORM), "mean of batch_norm for each of 4"),
        (lambda: Network.chain([3, 5], output_activation=BatchNorm(None, 1)), "running stat"),  # type: ignore[arg-type]
        (lambda: Network.chain([3, 5], output_activation=BatchNorm(0, -1)), "above zero"),
        (lambda: Network.chain([3, 5], output_activation=BatchNorm(np.nan, 1)), "finite b"),
    ],
)
def test_what_cannot_be_folded_is_refused(make: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make()
