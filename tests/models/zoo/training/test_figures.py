"""How well a network does, in words."""

import numpy as np

from forwardpass.models import Dense, Network, Output
from forwardpass.models.zoo.stored import HeldOut
from forwardpass.models.zoo.training.figures import figures


def test_a_probability_is_counted_right_or_wrong() -> None:
    network = Network.define(1, [Dense("p", activation="sigmoid", W=[[1.0]])])
    x = np.array([[3.0], [2.0], [-1.0], [-2.0]], np.float32)
    truth = np.array([[1.0], [0.0], [0.0], [1.0]], np.float32)
    assert figures(network, HeldOut(x, {"p": truth})) == {
        "p": "accuracy 0.5000 (2 of 4; 1 of 2 positive)"
    }


def test_a_regression_has_an_error_and_r2_for_each_column() -> None:
    network = Network.define(
        1,
        [Dense("y", activation="identity", W=[[1.0], [1.0]])],
        [Output("y", "y", labels=("first", "second"), units=("mm", ""))],
    )
    x = np.array([[1.0], [3.0]], np.float32)
    truth = np.array([[1.0, 3.0], [3.0, 1.0]], np.float32)
    assert figures(network, HeldOut(x, {"y": truth})) == {
        "y": "first: error 0 mm, R2 1.00; second: error 2, R2 -3.00"
    }


def test_many_columns_have_one_figure() -> None:
    network = Network.chain([64, 64], parameters=[(np.eye(64), np.ones(64))])
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    assert figures(network, HeldOut(x, {"y": x}))["y"].startswith("error 1, R2 ")


def test_an_output_without_a_truth_has_no_figure() -> None:
    assert figures(Network.chain([1, 1]), HeldOut(np.ones((1, 1), np.float32), {})) == {}
