"""Integrated gradients: the float64 reference, and the same as a graph of ONNX."""

from typing import Any

import numpy as np
import pytest

from forwardpass.models import (
    ACTIVATIONS,
    AnyActivation,
    Categorical,
    Dense,
    Elu,
    GroupedSoftmax,
    HardSigmoid,
    Input,
    LeakyRelu,
    Network,
    NetworkError,
    Output,
    PRelu,
    Scaling,
    load,
    publish,
    to_onnx,
)
from forwardpass.models.activations import activation_of
from forwardpass.models.derivatives import pulled_back
from forwardpass.models.explanation import baseline_of
from forwardpass.models.zoo import ZOO
from forwardpass.proto.explain import Target, names
from forwardpass.proto.gradients import (
    NoGradientError,
    explained,
)
from forwardpass.proto.gradients import baseline_of as baseline_of_file
from forwardpass.proto.runtime import open_session, session_options

RNG = np.random.default_rng(3)
OVER_ROWS = ("softmax", "log_softmax", GroupedSoftmax([1, 2]))
GIVEN: list[AnyActivation] = [
    LeakyRelu(-0.3),
    PRelu([0.5, -0.2, 0.1]),
    Elu(0.7),
    HardSigmoid(0.3),
    GroupedSoftmax([1, 2]),
]
FUNCTIONS: list[Any] = [*ACTIVATIONS, *GIVEN]
SCALED = Input(4, mean=RNG.normal(size=4), scale=RNG.uniform(0.5, 2, 4))
TANGLED = Network.define(
    SCALED,
    [
        Dense("relu", 5, "relu", b=RNG.normal(size=5)),
        Dense("sigmoid", 3, "sigmoid", reads=("relu", "x")),
        Dense("linear", 3, "identity", reads=("x",)),
        Dense("sum", 4, "silu", reads=("linear", "sigmoid", "x")),
        Dense("head", 2, "identity", reads=("sum", "relu", "linear")),
        Dense("classes", 3, "softmax", reads="sum"),
        Dense("shares", 4, "softmax", reads=("sum", "relu")),
        Dense("decided", 2, "sigmoid", reads=("shares", "linear")),
    ],
    ["head", "classes", "decided", Output("hidden", "relu"), Output("sums", "sum", of="z")],
)


def run(network: Network, x: Any, output: str, column: int, steps: int = 64) -> list[Any]:
    model = to_onnx(network)
    plain = open_session(model.SerializeToString(), session_options())
    base = baseline_of_file(model)[np.newaxis]
    (answer,) = plain.run([output], {network.input.name: base})
    graph = explained(model, Target(output, column), steps, float(answer[0, column]))
    session = open_session(graph.SerializeToString(), session_options())
    arrays: list[Any] = session.run([output, *names(output)], {network.input.name: x})
    np.testing.assert_array_equal(arrays[0], plain.run([output], {network.input.name: x})[0])
    return arrays[1:]


@pytest.mark.parametrize("f", FUNCTIONS, ids=str)
def test_the_derivative_is_the_slope_at_a_point_and_the_mean_slope_between_two(f: Any) -> None:
    function = activation_of(f).function
    z = RNG.uniform(-4, 4, (400, 3))
    g = RNG.normal(size=(400, 3))
    step = 1e-6
    wanted = np.zeros_like(z)
    for column in range(3):
        moved = np.eye(3)[column] * step
        wanted[:, column] = ((function(z + moved) - function(z - moved)) * g).sum(axis=1)
    wanted /= 2 * step
    np.testing.assert_allclose(pulled_back(f, g, z), wanted, rtol=1e-6, atol=1e-7)
    if f not in (*OVER_ROWS, "exp"):
        further = z + RNG.normal(size=z.shape)
        change = (function(further) - function(z)) / (further - z)
        straight = str(f).split(" ")[0] in (
            "identity",
            "relu",
            "leaky_relu",
            "prelu",
            "hard_sigmoid",
        )
        tolerance = 1e-12 if straight or f == "hard_swish" else 0.4
        ones = np.ones_like(z)
        np.testing.assert_allclose(pulled_back(f, ones, z, further), change, atol=tolerance)


@pytest.mark.parametrize("f", FUNCTIONS, ids=str)
def test_the_graph_of_each_function_gives_the_reference(f: Any) -> None:
    hidden: Any = "tanh" if f in (*OVER_ROWS, "exp") else f
    network = Network.define(
        SCALED,
        [
            Dense("a", 3, hidden, b=[0.5, 0, 1]),
            Dense("b", 3, hidden),
            Dense("y", 3, f, b=[1, 2, 3]),
        ],
        ["y"],
    )
    x = RNG.normal(size=(9, 4)).astype(np.float32)
    wanted = network.explain(x, column=1)
    attributions, error = run(network, x, "y", 1)
    np.testing.assert_allclose(attributions, wanted.attributions, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(error, wanted.error, atol=1e-5)
    answers = network(x)["y"][:, 1]
    assert np.abs(wanted.error).max() < 2e-3 * max(np.ptp(answers), 0.05)


@pytest.mark.parametrize(
    ("output", "column"), [("head", 1), ("classes", 2), ("decided", 1), ("hidden", 0), ("sums", 3)]
)
def test_layers_that_read_several_and_outputs_inside(output: str, column: int) -> None:
    x = RNG.normal(size=(7, 4)).astype(np.float32)
    wanted = TANGLED.explain(x, output, column)
    attributions, error = run(TANGLED, x, output, column)
    np.testing.assert_allclose(attributions, wanted.attributions, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(error, wanted.error, atol=2e-6)
    fine = TANGLED.explain(x, output, column, steps=2000)
    np.testing.assert_allclose(wanted.attributions, fine.attributions, atol=1e-3)
    # Against the definition, by finite differences along the path.
    points = (np.arange(2000) + 0.5) / 2000
    start = baseline_of(TANGLED)
    for feature in range(4):
        moved = np.eye(4)[feature] * 1e-2
        path = (start + points[:, np.newaxis] * (x[0] - start)).astype(np.float32)
        up, down = (TANGLED(path + sign * moved)[output][:, column] for sign in (1, -1))
        slope = ((up - down) / 2e-2).mean()
        measured = (x[0, feature] - start[feature]) * slope
        assert fine.attributions[0, feature] == pytest.approx(measured, abs=2e-3)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "penguins"])
def test_attributions_of_real_rows_are_complete(name: str) -> None:
    network, x = ZOO[name].network(), ZOO[name].held_out().x[:20]
    for output in network.outputs:
        attributions, error = network.explain(x, output.name, 0)
        answers = network(x)[output.name][:, 0]
        start = network(baseline_of(network))[output.name][0]
        np.testing.assert_allclose(attributions.sum(axis=1) - (answers - start), error, atol=1e-9)
        assert np.abs(error).max() < 1e-3 * max(np.ptp(answers), 1e-6)


def test_the_baseline_is_the_given_one_the_mean_or_zero() -> None:
    chain = [(np.ones((1, 2)), [0.0])]
    for source, wanted in (
        (Input(2), [0, 0]),
        (Input(2, mean=[1, 2]), [1, 2]),
        (Input(2, mean=[1, 2], baseline=[3, 4]), [3, 4]),
    ):
        network = Network.chain([2, 1], input=source, parameters=chain)
        np.testing.assert_array_equal(baseline_of(network), wanted)
        np.testing.assert_array_equal(baseline_of_file(to_onnx(network)), wanted)
        np.testing.assert_allclose(
            network.explain([7.0, 8.0]).attributions, [7.0 - wanted[0], 8.0 - wanted[1]]
        )
    two = Input(2, scalings=[Scaling("s", mean=[5, 6]), Scaling("t", scale=[2, 2])])
    layers = [Dense("a", 1, reads="s"), Dense("b", 1, reads="t"), Dense("y", 1, reads=("a", "b"))]
    network = Network.define(two, layers)
    assert baseline_of(network).tolist() == baseline_of_file(to_onnx(network)).tolist() == [5, 6]
    network = Network.chain([2, 1], parameters=chain)
    assert network.explain([7.0, 8.0], baseline=[7.0, 7.0]).attributions.round(9).tolist() == [
        0.0,
        1.0,
    ]


def test_the_baseline_is_kept_in_the_file(tmp_path: Any) -> None:
    network = Network.chain([2, 3, 1], input=Input(2, baseline=[3, 4]))
    published = publish(network, tmp_path)
    again = load(published.path)
    assert again == network
    np.testing.assert_array_equal(baseline_of(again), [3, 4])


def test_missing_values_count_as_filled() -> None:
    network = Network.chain([3, 4, 1], "tanh", input=Input(3, mean=[1, 1, 1], fill=[2, np.nan, 3]))
    gap, whole = np.array([[np.nan, 5, 6]], np.float32), np.array([[2, 5, 6]], np.float32)
    wanted = network.explain(whole).attributions
    np.testing.assert_array_equal(network.explain(gap).attributions, wanted)
    np.testing.assert_allclose(run(network, gap, "y", 0)[0], wanted, rtol=1e-4, atol=1e-6)


def test_a_label_names_a_column_and_a_mistake_is_named() -> None:
    wrong: dict[str, Any]
    network = Network.chain([2, 3, 2], "tanh", labels=["no", "yes"])
    x = [1.0, 2.0]
    np.testing.assert_array_equal(
        network.explain(x, column="yes").attributions, network.explain(x, "y", 1).attributions
    )
    for wrong, text in (
        ({"column": "maybe"}, "label .no, yes."),
        ({"column": 2}, "0 to 1"),
        ({}, "one column at a time"),
        ({"output": "z"}, "one of its outputs"),
        ({"column": 0, "steps": 0}, "1 or more"),
        ({"column": 0, "baseline": [1.0]}, "one per feature"),
    ):
        with pytest.raises(NetworkError, match=text):
            network.explain(x, **wrong)


def test_other_inputs_are_refused() -> None:
    network = Network.define(
        [Input(2), Categorical("kind", ["a", "b"])], [Dense("y", 1, reads=("x", "kind"))]
    )
    with pytest.raises(NetworkError, match="one input, of numbers"):
        network.explain({"x": [[1.0, 2.0]], "kind": ["a"]})
    with pytest.raises(NoGradientError, match="2 inputs"):
        baseline_of_file(to_onnx(network))


def test_a_graph_without_known_gradients_is_refused_by_its_node() -> None:
    model = to_onnx(Network.chain([2, 3, 1], "relu"))
    model.graph.node[1].op_type = "Sin"
    with pytest.raises(NoGradientError, match=r"L2/Relu.*Sin"):
        explained(model, Target("y", 0), 16, 0.0)


def test_a_row_that_would_take_too_much_memory_is_refused() -> None:
    model = to_onnx(Network.chain([2, 1000, 1], "relu"))
    with pytest.raises(NoGradientError, match="256 steps would take 6"):
        explained(model, Target("y", 0), 256, 0.0, max_row_bytes=2**20)
    explained(model, Target("y", 0), 16, 0.0, max_row_bytes=2**20)
