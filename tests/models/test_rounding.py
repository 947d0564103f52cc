from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from forwardpass.models import (
    ACTIVATIONS,
    Dense,
    Input,
    Network,
    Output,
    export,
    forward,
    rounding_bound,
    to_onnx,
)
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph
from forwardpass.proto.spec import TensorError

F32 = np.float32


def flushed(values):
    return np.where(np.abs(values) < np.finfo(F32).tiny, F32(0), values).astype(F32)


def in_float32(network, x, order, *, flush, fused):
    """Outputs as float32 arithmetic gives them that adds in an order of its own.

    Each operation rounds, `flush` makes subnormals zero wherever they occur, and `fused` adds
    a product to the sum with one rounding.
    """
    f: Callable[[Any], Any] = flushed if flush else F32
    a = f(x)
    if network.input.mean is not None:
        a = f(a - f(network.input.mean))
    if network.input.scale is not None:
        a = f(a / f(network.input.scale))
    held = {network.input.name: a}
    for layer in network.layers:
        inputs = np.concatenate([held[name] for name in layer.reads], axis=1)
        W, b = f(layer.W), f(layer.b)
        terms: list[tuple[str, int | None]]
        terms = [("b", None), *(("w", j) for j in range(W.shape[1]))]
        z = np.zeros((len(x), layer.units), F32)
        for index in order.permutation(len(terms)):
            kind, j = terms[index]
            if kind == "b":
                z = f(z + b)
            elif fused:
                exact = inputs[:, j, None].astype(np.float64) * W[:, j]
                z = f((z + exact).astype(F32))
            else:
                z = f(z + f(inputs[:, j, None] * W[:, j]))
        exact = ACTIVATIONS[layer.activation].function(z.astype(np.float64))
        held[layer.name] = f(exact.astype(F32))
    return {output.name: held[output.layer] for output in network.outputs}


def ordinary(activation="relu", seed=0):
    return Network.chain([30, 64, 32, 2], activation, seed=seed, input=Input(30, mean=np.ones(30)))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "identity"])
def test_ordinary_networks_have_a_tight_bound(activation):
    network = ordinary(activation)
    x = np.random.default_rng(1).standard_normal((50, 30))
    bound, reference = rounding_bound(network, x)["y"], forward(network, x)["y"]
    assert bound.shape == reference.shape
    assert (bound > 0).all()
    assert (bound < 1e-3 * np.abs(reference).max()).all()


@pytest.mark.parametrize("exponent", [-38, -30, -10, 0, 10])
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_it_holds_for_any_order_of_summation_fused_or_flushed(exponent, flush, fused):
    rng = np.random.default_rng(exponent + 100)
    network = Network.define(
        Input(5, mean=rng.standard_normal(5) * 1e-3, scale=10.0 ** rng.integers(-6, 6, 5)),
        [
            Dense("a", W=rng.standard_normal((6, 5)) * 10.0**exponent, activation="identity"),
            Dense("b", 4, "tanh", reads=["a", "x"]),
            Dense("c", 3, "sigmoid", reads=["b", "x"]),
            Dense("d", W=rng.standard_normal((2, 9)) * 10.0**exponent, reads=["a", "c"]),
        ],
        ["a", "b", "c", "d"],
    )
    x = rng.standard_normal((8, 5)).astype(F32) * F32(10.0 ** -(exponent // 2))
    bounds, reference = rounding_bound(network, x), forward(network, x)
    for _ in range(10):
        answers = in_float32(network, x, rng, flush=flush, fused=fused)
        for name, bound in bounds.items():
            assert np.isfinite(bound).all()
            assert (np.abs(answers[name] - reference[name]) <= bound).all()


def test_it_is_nearly_reached_where_rounding_is_worst():
    # 1 + n terms of half a unit in the last place each, every one lost when added to 1 in turn.
    n = 1000
    network = Network.chain([n, 1], parameters=[(np.full((1, n), 2.0**-24), [1.0])])
    error = network(np.ones(n))["y"][0] - 1.0
    bound = rounding_bound(network, np.ones(n))["y"][0]
    assert error <= bound < 1.1 * error


def test_a_wide_softmax_is_within_it():
    # One large and many small terms: each is lost in part when the row is summed in turn.
    n = 2000
    network = Network.define(n, [Dense("p", activation="softmax", W=np.eye(n))])
    rng = np.random.default_rng(0)
    x = np.full((20, n), -17.3) + rng.random((20, n)) * 3
    x[:, 0] = 0
    answers = load_graph(serialize(to_onnx(network))).run(x.astype(F32))
    assert (np.abs(answers["p"] - network(x)["p"]) <= rounding_bound(network, x)["p"]).all()


def test_where_float32_may_overflow_nothing_is_claimed():
    network = Network.define(
        2,
        [
            Dense("sum", W=[[3e38, -3e38], [1.0, 1.0]], activation="identity"),
            Dense("flat", W=np.eye(2), activation="sigmoid"),
            Dense("shares", W=np.eye(2), activation="softmax", reads="sum"),
            Dense("none", W=[[0, 1]], activation="identity", reads="sum"),
        ],
        ["sum", "flat", "shares", "none"],
    )
    # The sum is 0, but a part of it may be beyond the range, and NaN from there on.
    bound = rounding_bound(network, [[10.0, 10.0], [0.1, 0.1]])
    assert bound["sum"][0].tolist() == [np.inf, bound["sum"][0, 1]]
    assert np.isfinite(bound["sum"][0, 1])
    assert bound["flat"][0, 0] == np.inf
    assert (bound["shares"][0] == np.inf).all()
    assert bound["none"][0, 0] == np.inf
    assert all(np.isfinite(each[1]).all() for each in bound.values())


def test_the_bound_of_exp_is_relative_until_it_may_overflow():
    network = Network.define(1, [Dense("rate", activation="exp", W=[[1.0]])])
    x = np.array([[-100.0], [-1.0], [0.0], [1.0], [88.0], [89.0], [1000.0]])
    bound, rate = rounding_bound(network, x)["rate"], network(x)["rate"]
    assert (bound[:5] <= 2e-5 * rate[:5] + 1e-37).all()
    assert (bound[5:] == np.inf).all()
    answers = load_graph(serialize(to_onnx(network))).run(x.astype(F32))["rate"]
    assert (np.abs(answers[:5] - rate[:5]) <= bound[:5]).all()


def test_an_overflow_in_the_scaling_is_one_too():
    network = Network.chain([1, 1], input=Input(1, scale=[1e-30]))
    assert rounding_bound(network, [1e20])["y"][0] == np.inf
    network = Network.chain([1, 1], input=Input(1, mean=[-3e38]))
    assert rounding_bound(network, [3e38])["y"][0] == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_has_an_infinite_bound(value):
    network = Network.chain([2, 3, 2], "tanh")
    assert (rounding_bound(network, [[value, 1.0]])["y"] == np.inf).all()


def test_bounded_activations_bound_the_error():
    network = Network.define(
        1,
        [
            Dense("far", W=[[1e30]], activation="identity"),
            Dense("s", W=[[1e6]], activation="sigmoid", reads="far"),
            Dense("t", W=[[1e6]], activation="tanh", reads="far"),
        ],
        ["far", "s", "t"],
    )
    bound = rounding_bound(network, [1.0])
    assert bound["far"][0] > 1e20
    assert 1 <= bound["s"][0] < 1 + 1e-6
    assert 2 <= bound["t"][0] < 2 + 1e-6


def test_one_row_gives_bounds_without_the_batch_axis_and_z_has_its_own():
    network = Network.chain([3, 4, 2], "tanh", "sigmoid")
    outputs = [*network.outputs, Output("logits", "L3", "z")]
    network = Network(network.input, network.layers, outputs)
    bound = rounding_bound(network, [1.0, 2.0, 3.0])
    assert {name: each.shape for name, each in bound.items()} == {"y": (2,), "logits": (2,)}
    assert (bound["y"] != bound["logits"]).all()


def test_x_that_does_not_fit_is_refused():
    with pytest.raises(TensorError, match="input 'x'"):
        rounding_bound(ordinary(), np.zeros(3))


@pytest.mark.parametrize(
    ("activation", "first", "last", "highest"),
    [
        ("sigmoid", 12, 20, 1 + 2.0**-23),
        ("tanh", 6, 12, 1 + 2.0**-22),
        ("softsign", 2.0**20, 2.0**40, 1 + 2.0**-22),
    ],
)
def test_an_answer_leaves_the_range_of_its_activation_by_what_is_documented(
    tmp_path, activation, first, last, highest
):
    identity = [(np.ones((1, 1)), np.zeros(1))]
    network = Network.chain([1, 1], output_activation=activation, parameters=identity)
    export(network, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    bits = np.arange(np.float32(first).view(np.uint32), np.float32(last).view(np.uint32), 7)
    (y,) = session.run(None, {"x": bits.astype(np.uint32).view(np.float32)[:, np.newaxis]})
    assert y.max() <= highest
    documented = Path(__file__).parents[2].joinpath("docs/client.md").read_text()
    assert f"{np.float32(highest):.7f}" in documented
    assert np.clip(y, 0, 1).max() <= 1
