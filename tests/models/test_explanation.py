"""Integrated gradients: the float64 reference, and the same as a graph of ONNX."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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
    from_onnx,
    load,
    publish,
    quantize,
    to_onnx,
)
from forwardpass.models.activations import activation_of
from forwardpass.models.derivatives import is_kinked, pulled_back
from forwardpass.models.explanation import baseline_of
from forwardpass.models.feeds import read_feed
from forwardpass.models.zoo import ZOO
from forwardpass.proto.explain import Target, names
from forwardpass.proto.gradients import NoGradientError, explained, starts_of
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
    model, rows = to_onnx(network), read_feed(network, x).rows
    plain = open_session(model.SerializeToString(), session_options())
    graph = explained(model, Target(output, column), steps)
    session = open_session(graph.SerializeToString(), session_options())
    arrays: list[Any] = session.run([output, *names(output)], rows)
    np.testing.assert_array_equal(arrays[0], plain.run([output], rows)[0])
    return arrays[1:]


def base_of_file(network: Network) -> Any:
    (start,) = starts_of(to_onnx(network))
    return start.base


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
    # The same for each function, whatever ran before.
    x = np.random.default_rng(4).normal(size=(9, 4)).astype(np.float32)
    wanted = network.explain(x, column=1)
    attributions, error = run(network, x, "y", 1)
    np.testing.assert_allclose(attributions, wanted.attributions, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(error, wanted.error, atol=1e-5)
    most = 2e-3 * max(np.ptp(network(x)["y"][:, 1]), 0.05)
    # A step over a kink has an error of its own, of which more and smaller steps leave little.
    fine = network.explain(x, column=1, steps=1024) if is_kinked(f) else wanted
    assert np.abs(fine.error).max() < most


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
    start = baseline_of(TANGLED.input)
    for feature in range(4):
        moved = np.eye(4)[feature] * 1e-2
        path = (start + points[:, np.newaxis] * (x[0] - start)).astype(np.float32)
        up, down = (TANGLED(path + sign * moved)[output][:, column] for sign in (1, -1))
        slope = ((up - down) / 2e-2).mean()
        measured = (x[0, feature] - start[feature]) * slope
        assert fine.attributions[0, feature] == pytest.approx(measured, abs=2e-3)


@pytest.mark.parametrize("name", ZOO)
def test_attributions_of_real_rows_are_complete(name: str) -> None:
    network, x = ZOO[name].network(), ZOO[name].held_out()[:20].x
    for output in network.outputs:
        attributions, error = network.explain(x, output.name, 0)
        answers = network(x)[output.name][:, 0]
        if len(network.inputs) == 1:
            start = network(baseline_of(network.input))[output.name][0]
            off = attributions.sum(axis=1) - (answers - start)
            np.testing.assert_allclose(off, error, atol=1e-9)
        assert np.abs(error).max() < 1e-3 * max(np.ptp(answers), 1e-6)


def test_the_baseline_is_the_given_one_the_mean_or_zero() -> None:
    chain = [(np.ones((1, 2)), [0.0])]
    for source, wanted in (
        (Input(2), [0, 0]),
        (Input(2, mean=[1, 2]), [1, 2]),
        (Input(2, mean=[1, 2], baseline=[3, 4]), [3, 4]),
    ):
        network = Network.chain([2, 1], input=source, parameters=chain)
        np.testing.assert_array_equal(baseline_of(network.input), wanted)
        np.testing.assert_array_equal(base_of_file(network), wanted)
        np.testing.assert_allclose(
            network.explain([7.0, 8.0]).attributions, [7.0 - wanted[0], 8.0 - wanted[1]]
        )
    two = Input(2, scalings=[Scaling("s", mean=[5, 6]), Scaling("t", scale=[2, 2])])
    layers = [Dense("a", 1, reads="s"), Dense("b", 1, reads="t"), Dense("y", 1, reads=("a", "b"))]
    network = Network.define(two, layers)
    assert baseline_of(network.input).tolist() == base_of_file(network).tolist() == [5, 6]
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
    np.testing.assert_array_equal(baseline_of(again.input), [3, 4])


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


MIXED = Network.define(
    [
        Input(3, "size", ("length", "width", "mass"), mean=[1, 2, 3], scale=[2, 1, 0.5]),
        Categorical("color", ["red", "green", "blue"], unknown="zeros"),
        Input(2, "more", fill=[0.5, np.nan], baseline=[0.25, -1]),
        Categorical("year", [2020, 2021], missing=2021, values=RNG.normal(size=(2, 4))),
        Categorical("place", ["in", "out"], unknown="in", values=[0.5, -2]),
        Categorical("shape", ["round", "long"]),
    ],
    [
        Dense("hidden", 5, "relu", b=RNG.normal(size=5)),
        Dense("embedded", 2, "identity", reads=("color", "shape"), b=[0, 0]),
        Dense("more_hidden", 4, "tanh", reads=("embedded", "more", "hidden", "place")),
        Dense("y", 2, "sigmoid", reads=("more_hidden", "year", "size")),
        Dense("classes", 3, "softmax", reads=("hidden", "more_hidden")),
        Dense("alone", 1, "silu", reads="more"),
    ],
    ["y", "classes", "alone"],
)


def mixed_rows(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    x = {
        "size": rng.normal(size=(count, 3)).astype(np.float32) * 3,
        "color": rng.choice(["red", "green", "blue", "pink"], count),
        "more": rng.normal(size=(count, 2)).astype(np.float32),
        "year": rng.choice([2020, 2021, -(2**63)], count),
        "place": rng.choice(["in", "out", "above"], count),
        "shape": rng.choice(["round", "long"], count),
    }
    x["more"][::4, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("output", "column"), [("y", 0), ("y", 1), ("classes", 2), ("alone", 0)], ids=str
)
def test_several_inputs_and_categories(output: str, column: int) -> None:
    x = mixed_rows(40)
    wanted = MIXED.explain(x, output, column)
    # size, color, more, year, place, shape
    assert wanted.attributions.shape == (40, 3 + 1 + 2 + 1 + 1 + 1)
    attributions, error = run(MIXED, x, output, column)
    answers = MIXED(x)[output][:, column]
    np.testing.assert_allclose(attributions, wanted.attributions, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(error, wanted.error, atol=2e-6)
    assert np.abs(wanted.error).max() < 1e-3 * np.ptp(answers)
    if output == "alone":
        assert not wanted.attributions[:, [0, 1, 2, 3, 6, 7, 8]].any()
    # What is as at the baseline contributes nothing.
    same = (x["color"] == "pink", x["year"] != 2020, x["place"] != "out")
    for at, mask in zip((3, 6, 7), same, strict=True):
        assert mask.any()
        assert not attributions[mask, at].any()
    one = MIXED.explain({name: each[3] for name, each in x.items()}, output, column)
    np.testing.assert_allclose(one.attributions, wanted.attributions[3], atol=1e-12)
    assert one.error.shape == ()


def test_a_path_is_the_definition_in_the_encoded_columns() -> None:
    """Against the same network of numbers alone, whose input is what the layers read."""
    color = Categorical("color", ["red", "green", "blue"], unknown="zeros")
    layers = [Dense("h", 4, "gelu", b=[1, 2, 0, 1]), Dense("y", 1, "identity")]
    mixed = Network.define([Input(2), color], layers)
    same = [
        replace(dense, W=mixed.layer(dense.name).W, b=mixed.layer(dense.name).b) for dense in layers
    ]
    plain = Network.define(Input(5), same)
    rows = np.array([[1, 2], [-3, 0.5], [2, 2]], np.float32)
    found = mixed.explain({"x": rows, "color": ["red", "blue", "none"]})
    encoded = np.hstack([rows, [[1, 0, 0], [0, 0, 1], [0, 0, 0]]])
    wanted = plain.explain(encoded).attributions
    np.testing.assert_allclose(found.attributions[:, :2], wanted[:, :2], atol=1e-12)
    np.testing.assert_allclose(found.attributions[:, 2], wanted[:, 2:].sum(axis=1), atol=1e-12)


def test_the_baseline_of_a_category_is_the_given_one_a_missing_one_or_none(tmp_path: Any) -> None:
    for source, missing, wanted in (
        (Categorical("c", ["a", "b", "d"]), "no answer", [0, 0, 0]),
        (Categorical("c", ["a", "b", "d"], unknown="zeros"), "", [0, 0, 0]),
        (Categorical("c", ["a", "b", "d"], unknown="b"), "", [0, 1, 0]),
        (Categorical("c", ["a", "b", "d"], missing="d", unknown="b"), "", [0, 0, 1]),
        (Categorical("c", ["a", "b", "d"], missing="d", baseline="a"), "a", [1, 0, 0]),
        (Categorical("c", [1, 2, 3], baseline=2), 2, [0, 1, 0]),
        (Categorical("c", [1, 2], values=[[5, 6, 7], [7, 8, 9]], baseline=2), 2, [7, 8, 9]),
    ):
        network = Network.define([source], [Dense("y", 1, "identity", reads="c")])
        assert baseline_of(source).tolist() == base_of_file(network).tolist() == wanted
        again = load(publish(network, tmp_path).path)
        assert again == network
        assert again.inputs == (source,)
        if missing != "no answer":
            start = network({"c": [missing]})["y"][0, 0]
            value = source.categories[0]
            answer = network({"c": [value]})["y"][0, 0]
            found = network.explain({"c": [value]}).attributions
            np.testing.assert_allclose(found, [[answer - start]], atol=1e-12)
    with pytest.raises(NetworkError, match="baseline to be None, or one of the categories"):
        Categorical("c", ["a"], baseline="b")


def test_another_baseline_is_given_by_input() -> None:
    x = mixed_rows(4)
    base: dict[str, Any] = {
        "size": {"length": 1, "width": 2, "mass": 3},
        "color": "red",
        "year": np.int64(2020),
    }
    found = MIXED.explain(x, "y", 0, baseline=base)
    sources: Any = MIXED.inputs
    inputs = tuple(
        replace(source, baseline=base[source.name]) if source.name in base else source
        for source in sources
    )
    wanted = replace(MIXED, inputs=inputs).explain(x, "y", 0)
    np.testing.assert_array_equal(found.attributions, wanted.attributions)
    for wrong, text in (
        ([1.0, 2.0], "a mapping by input"),
        ({"colour": "red"}, "'colour'"),
        ({"color": "pink"}, "one of the categories"),
        ({"size": [1.0]}, "one per feature"),
    ):
        with pytest.raises(NetworkError, match=text):
            MIXED.explain(x, "y", 0, baseline=wrong)


def test_a_category_without_an_answer_has_no_attribution() -> None:
    x = mixed_rows(3)
    x["shape"][1] = "odd"
    wanted = MIXED.explain(x, "y", 0)
    found = run(MIXED, x, "y", 0)
    for attributions, error in (wanted, found):
        assert np.isnan(attributions[1]).any()
        assert np.isnan(error).tolist() == [False, True, False]


def test_inputs_that_are_encoded_otherwise_are_refused_with_a_way_out() -> None:
    network = Network.define(
        [Input(2), Categorical("kind", ["a", "b"])], [Dense("y", 1, reads=("x", "kind"))]
    )
    model = to_onnx(network)
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.op_type = "Identity"
    with pytest.raises(NoGradientError, match=r"'kind' is not encoded by .*from_onnx"):
        starts_of(model)
    model = to_onnx(Network.chain([2, 1]))
    model.graph.input[0].type.tensor_type.elem_type = 11
    with pytest.raises(NoGradientError, match=r"'x' is not float32 .*from_onnx"):
        starts_of(model)


def test_a_quantized_file_is_refused_with_a_way_out() -> None:
    network = Network.chain([30, 8, 1], "relu")
    x = RNG.normal(size=(40, 30)).astype(np.float32)
    with pytest.raises(NoGradientError, match="explain the float32 file that it was made from"):
        explained(onnx.load_from_string(quantize(network, x).content), Target("y", 0), 16)


def test_what_a_file_of_another_producer_is_refused_for_from_onnx_takes() -> None:
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "W"], ["z"]),
                helper.make_node("BatchNormalization", ["z", "s", "b", "m", "v"], ["n"]),
                helper.make_node("Relu", ["n"], ["y"]),
            ],
            "foreign",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
            [
                numpy_helper.from_array(RNG.normal(size=(2, 3)).astype(np.float32), "W"),
                *(numpy_helper.from_array(np.full(3, 0.5, np.float32), each) for each in "sbmv"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(NoGradientError, match=r"BatchNormalization.*from_onnx"):
        explained(model, Target("y", 0), 16)
    network = from_onnx(model)
    x = RNG.normal(size=(5, 2)).astype(np.float32)
    found = run(network, x, network.outputs[0].name, 0)
    wanted = network.explain(x, column=0).attributions
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=2e-6)


def test_a_graph_without_known_gradients_is_refused_by_its_node() -> None:
    model = to_onnx(Network.chain([2, 3, 1], "relu"))
    model.graph.node[1].op_type = "Sin"
    with pytest.raises(NoGradientError, match=r"L2/Relu.*Sin"):
        explained(model, Target("y", 0), 16)


def test_a_row_that_would_take_too_much_memory_is_refused() -> None:
    model = to_onnx(Network.chain([2, 1000, 1], "relu"))
    with pytest.raises(NoGradientError, match="256 steps would take 6"):
        explained(model, Target("y", 0), 256, max_row_bytes=2**20)
    explained(model, Target("y", 0), 16, max_row_bytes=2**20)
