"""Layer normalization in a network: its values, its error in float32, its file and its gradient."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from support.living import serving

from forwardpass.client import Client
from forwardpass.models import (
    AnyActivation,
    Dense,
    Elu,
    GroupedSoftmax,
    Input,
    LayerNorm,
    Network,
    NetworkError,
    Output,
    PRelu,
    UnsupportedModelError,
    conformal,
    export,
    from_onnx,
    load,
    quantize,
    rounding_bound,
    to_onnx,
)
from forwardpass.models.activations import activation_of
from forwardpass.models.derivatives import is_kinked, pulled_back
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph
from forwardpass.proto.explain import Target, names
from forwardpass.proto.gradients import explained
from forwardpass.proto.runtime import open_session, session_options

RNG = np.random.default_rng(8)
AFTER: list[AnyActivation] = [
    "identity",
    "relu",
    "gelu",
    "softmax",
    PRelu([0.1, 0.2, 0.3, 0.4]),
    GroupedSoftmax([1, 3]),
]
DEEP = Network.define(
    Input(6),
    [
        Dense("first", 16, LayerNorm(RNG.normal(size=16), RNG.normal(size=16), then="relu")),
        Dense("second", 8, LayerNorm(epsilon=1e-3, then="silu"), reads=("first", "x")),
        Dense("third", 8, LayerNorm(bias=RNG.normal(size=8))),
        Dense("kind", 4, LayerNorm(then="softmax"), reads=("third", "first")),
    ],
    ["kind", Output("sums", "kind", of="z"), Output("normal", "third")],
    name="deep",
)
X = RNG.normal(size=(33, 6)).astype(np.float32)


def by_hand(
    z: NDArray[np.float64], scale: Any, bias: Any, epsilon: float = 1e-5
) -> NDArray[np.float64]:
    """The definition, row by row."""
    rows = []
    for row in z:
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        rows.append(scale * (row - mean) / (variance + epsilon) ** 0.5 + bias)
    return np.array(rows)


def rows_of(kind: str, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rows of which normalization makes much or little."""
    noise = rng.normal(size=(12, width))
    made = {
        "ordinary": noise,
        "tiny": noise * 1e-5,
        "far": noise + 1e4,
        "wide": noise * 1e6,
        "constant": np.repeat(noise[:, :1] * 1e3, width, axis=1),
        "nearly constant": 1 + noise * 1e-6,
        "one outlier": noise * 1e-3 + 1e5 * (np.arange(width) == 0),
    }
    return np.asarray(made[kind], np.float32)


KINDS = ("ordinary", "tiny", "far", "wide", "constant", "nearly constant", "one outlier")


def test_it_is_what_the_definition_says() -> None:
    scale, bias = RNG.normal(size=5), RNG.normal(size=5)
    norm = LayerNorm(scale, bias, 0.01, "tanh")
    network = Network.define(3, [Dense("y", 5, norm)], ["y", Output("z", "y", of="z")])
    answers = network(X[:, :3])
    epsilon = float(np.float32(0.01))
    wanted = np.tanh(by_hand(answers["z"], np.float32(scale), np.float32(bias), epsilon))
    np.testing.assert_allclose(answers["y"], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_over_random_networks(kind: str) -> None:
    for seed, width in product(range(2), (2, 5, 64)):
        rng = np.random.default_rng([seed, width])
        norm = LayerNorm(
            rng.normal(size=width) * 3, rng.normal(size=width), 10.0 ** -rng.integers(9)
        )
        # What is normalized first is the row itself.
        layers = [Dense("first", activation=norm, W=np.eye(width)), Dense("y", width, norm)]
        network = Network.define(width, layers, ["first", "y"], seed=seed)
        x = rows_of(kind, width, rng)
        answers, bounds = load_graph(serialize(to_onnx(network))).run(x), rounding_bound(network, x)
        for name, wanted in network(x).items():
            assert (np.abs(answers[name] - wanted) <= bounds[name]).all()
            assert np.isfinite(bounds[name]).all()


def test_the_bound_of_ordinary_rows_is_tight() -> None:
    network = Network.chain([6, 32, 32, 2], LayerNorm(then="relu"))
    assert rounding_bound(network, X)["y"].max() < 5e-3


def test_where_float32_may_overflow_nothing_is_claimed() -> None:
    network = Network.define(2, [Dense("y", activation=LayerNorm(), W=np.eye(2))])
    bound = rounding_bound(network, [[1e10, 1], [1e20, 1], [np.nan, 1], [np.inf, 1]])["y"]
    assert np.isfinite(bound).all(axis=1).tolist() == [True, False, False, False]


def test_a_file_reads_back_equal_and_again_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for then in AFTER:
        network = Network.define(
            Input(6),
            [Dense("h", 4, LayerNorm([1, 2, 3, 4], then=then)), Dense("y", 2)],
            name="n",
            provenance={"of": "a test"},
        )
        export(network, first, overwrite=True)
        onnx.checker.check_model(onnx.load(first), full_check=True)
        for again in (load(first), from_onnx(first, name="n")):
            assert again.layers == network.layers
            export(again, second, overwrite=True)
            assert second.read_bytes() == first.read_bytes()
    export(DEEP, first, overwrite=True)
    assert load(first) == DEEP
    assert from_onnx(first, name="deep").layers == DEEP.layers
    operators = [node.op_type for node in to_onnx(DEEP).graph.node]
    assert operators.count("LayerNormalization") == 4


def norm_model(nodes: list[Any], outputs: list[str]) -> onnx.ModelProto:
    constants = {"W": np.eye(3), "b": [1, 2, 3], "s": [1, 1, 2]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3])],
        [helper.make_tensor_value_info(name, 1, ["n", 3]) for name in outputs],
        [
            onnx.numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_files_of_others_become_one_layer_where_they_can() -> None:
    gemm = helper.make_node("Gemm", ["x", "W", "b"], ["z"])
    norm = helper.make_node("LayerNormalization", ["z", "s"], ["n"], axis=-1, epsilon=0.1)
    relu = helper.make_node("Relu", ["n"], ["y"])
    one = from_onnx(norm_model([gemm, norm, relu], ["y"]))
    assert [layer.activation for layer in one.layers] == [LayerNorm([1, 1, 2], (), 0.1, "relu")]
    # What is shown is not changed, and what is not a layer's sums is put through one of ones.
    both = from_onnx(norm_model([gemm, norm, relu], ["y", "n"]))
    assert len(both.layers) == 2
    bare = from_onnx(norm_model([helper.make_node(*args) for args in BARE], ["y"]))
    x = X[:5, :3].astype(np.float64)
    wanted = np.maximum(by_hand(x, [1, 1, 2], 0), 0)
    np.testing.assert_allclose(bare(x.astype(np.float32))["y"], wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(both(x)["n"], by_hand(x @ np.eye(3) + [1, 2, 3], [1, 1, 2], 0, 0.1))
    np.testing.assert_allclose(both(x)["y"], np.maximum(both(x)["n"], 0))


GIVEN: dict[str, dict[str, Any]] = {"Gemm": {"transB": 1}}
BARE = [("LayerNormalization", ["x", "s"], ["n"]), ("Relu", ["n"], ["y"])]


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([("Relu", ["n"], ["y"])], ["y", "n"], "output 'n'"),
        ([("Relu", ["n"], ["r"]), ("Gemm", ["n", "W", "b"], ["y"])], ["y"], "reads 'n'"),
        ([("Gemm", ["x", "W", "n"], ["y"])], ["y"], "a Gemm's sum"),
        ([("LayerNormalization", ["n", "s", "b"], ["y"])], ["y"], "twice"),
    ],
)
def test_what_is_between_is_no_tensor_of_a_network(
    nodes: list[Any], outputs: list[str], message: str
) -> None:
    model = norm_model(
        [
            helper.make_node("Gemm", ["x", "W", "b"], ["z"], transB=1),
            helper.make_node("LayerNormalization", ["z", "s", "b"], ["n"]),
            *(
                helper.make_node(operator, reads, gives, **GIVEN.get(operator, {}))
                for operator, reads, gives in nodes
            ),
        ],
        outputs,
    )
    with pytest.raises(UnsupportedModelError, match=message):
        load(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerNorm(epsilon=0), "epsilon from 1e-30 on"),
        (lambda: LayerNorm(then=LayerNorm()), "another function after it"),
        (lambda: Network.chain([2, 3], output_activation=LayerNorm([1, 2])), "each of 3 units"),
        (lambda: Network.chain([2, 3], output_activation=LayerNorm(bias=[1])), "a bias of layer_n"),
        (lambda: Network.chain([2, 1], output_activation=LayerNorm()), "two units or more"),
        (lambda: Network.chain([2, 3, 1], LayerNorm(then="exp")), "only on a layer that no other"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make()


def test_defaults_have_one_notation() -> None:
    one = Network.chain([2, 3], output_activation=LayerNorm([1] * 3, [0] * 3, 1e-5, Elu(1.0)))
    assert one == Network.chain([2, 3], output_activation=LayerNorm(then="elu"))
    assert str(one.layers[0].activation) == "layer_norm elu"
    assert "layer_norm elu" in one.to_svg([1, 2])


@pytest.mark.parametrize("then", AFTER, ids=str)
def test_the_gradient_is_the_slope(then: AnyActivation) -> None:
    f = LayerNorm([0.5, 2, -1, 1], [1, 0, 0.5, 0], 0.1, then)
    function = activation_of(f).function
    z, g, step = RNG.normal(size=(200, 4)), RNG.normal(size=(200, 4)), 1e-6
    wanted = np.zeros_like(z)
    for column in range(4):
        moved = np.eye(4)[column] * step
        wanted[:, column] = ((function(z + moved) - function(z - moved)) * g).sum(axis=1)
    np.testing.assert_allclose(pulled_back(f, g, z), wanted / (2 * step), rtol=1e-5, atol=1e-6)
    assert is_kinked(f) is (then == "relu" or isinstance(then, PRelu))


@pytest.mark.parametrize("then", ["identity", "relu", "silu"])
def test_explanations_of_a_file_are_those_of_the_reference(then: AnyActivation) -> None:
    network = Network.define(
        Input(6),
        [
            Dense("a", 5, LayerNorm(RNG.normal(size=5), RNG.normal(size=5), 0.5, then)),
            Dense("b", 4, LayerNorm(epsilon=0.5, then=then)),
            Dense("y", 3, LayerNorm([1, 2, 3], epsilon=0.5)),
        ],
        ["y"],
    )
    model = to_onnx(network)
    session = open_session(
        explained(model, Target("y", 1), 64).SerializeToString(), session_options()
    )
    attributions, error = session.run([*names("y")], {"x": X})
    wanted = network.explain(X, column=1)
    np.testing.assert_allclose(attributions, wanted.attributions, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(error, wanted.error, atol=1e-5)
    assert np.abs(wanted.error).max() < 5e-3 * np.ptp(network(X)["y"][:, 1])


def test_int8_and_sets_of_labels_take_it() -> None:
    assert quantize(DEEP, X).loss < 0.2
    sets = conformal(DEEP, X, np.arange(33) % 4, alpha=0.2, output="kind")
    assert "kind_set" in [output.name for output in sets.outputs]


def test_it_is_served_batched_with_the_bits_of_single_rows(tmp_path: Path) -> None:
    odd = Network.chain([6, 13, 7], LayerNorm(then="relu"), LayerNorm(), name="odd")
    for network in (DEEP, odd):
        export(network, tmp_path / network.name / "1" / "model.onnx")
    x = np.concatenate([X, X * 1e4, np.repeat(X[:5, :1], 6, axis=1)])
    with serving(tmp_path) as served:
        with Client(f"127.0.0.1:{served.server.port}") as client:
            for model in ("deep", "odd"):
                together = client.predict(model, x)
                for row in range(0, len(x), 3):
                    single = client.predict(model, x[row : row + 1])
                    for name in together:
                        assert single[name].tobytes() == together[name][row : row + 1].tobytes()
                batching = served.server.catalog.find(model).batching
                assert batching.invariance == "true", batching.reason
