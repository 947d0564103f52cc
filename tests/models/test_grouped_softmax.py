"""A softmax over groups of a layer's units: several questions, each with one answer."""

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
    Dense,
    GroupedSoftmax,
    Input,
    Network,
    NetworkError,
    Output,
    UnsupportedModelError,
    conformal,
    export,
    from_onnx,
    load,
    quantize,
    rounding_bound,
    to_onnx,
)
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph

RNG = np.random.default_rng(5)
GROUPS = (3, 1, 4, 2)
SURVEY = Network.define(
    Input(6),
    [
        Dense("hidden", 10, GroupedSoftmax(GROUPS), b=RNG.normal(size=10)),
        Dense("elu", 8, "elu"),
        Dense("answers", 10, GroupedSoftmax(GROUPS), reads=("elu", "hidden")),
    ],
    ["answers", Output("sums", "answers", of="z")],
    name="survey",
    provenance={"of": "a test"},
)
X = RNG.normal(size=(33, 6)).astype(np.float32) * 3


def shares(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The definition, group by group."""
    result, start = np.empty_like(z), 0
    for size in GROUPS:
        e = np.exp(z[:, start : start + size])
        result[:, start : start + size] = e / e.sum(axis=1, keepdims=True)
        start += size
    return result


def test_each_group_is_a_softmax_of_its_own() -> None:
    answers = SURVEY(X)
    np.testing.assert_allclose(answers["answers"], shares(answers["sums"]), rtol=1e-12)
    assert str(SURVEY.layer("answers").activation) == "softmax 3+1+4+2"
    assert "softmax 3+1+4+2" in SURVEY.to_svg(X[0])


def test_one_group_is_a_softmax() -> None:
    network = Network.chain([2, 3], output_activation=GroupedSoftmax([3]))
    assert network.layers[0].activation == "softmax"


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_bound_holds_over_random_networks(scale: float) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        groups = rng.integers(1, 6, size=int(rng.integers(2, 5))).tolist()
        network = Network.chain(
            [5, sum(groups), 4, sum(groups)],
            [GroupedSoftmax(groups), "tanh"],
            GroupedSoftmax(groups),
            seed=seed,
        )
        x = (rng.normal(size=(20, 5)) * scale).astype(np.float32)
        runner = load_graph(serialize(to_onnx(network)))
        error = np.abs(runner.run(x)["y"] - network(x)["y"])
        bound = rounding_bound(network, x)["y"]
        assert (error <= bound).all()
        assert np.isfinite(bound).all()


def test_the_sums_of_other_groups_do_not_widen_the_bound() -> None:
    W = np.zeros((4, 2), np.float32)
    W[2:, 1] = [1000, -1000]
    W[:2, 0] = [1, 2]
    network = Network.define(2, [Dense("y", 4, GroupedSoftmax([2, 2]), W=W)])
    bound = rounding_bound(network, [0.5, 0.4])["y"]
    assert bound[:2].max() < 1e-5 < bound[2:].min()


def test_a_file_reads_back_equal_and_again_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    export(SURVEY, first)
    onnx.checker.check_model(onnx.load(first), full_check=True)
    assert load(first) == SURVEY
    for network in (load(first), from_onnx(first, name="survey")):
        export(network, second, overwrite=True)
        assert second.read_bytes() == first.read_bytes()


def test_it_reads_a_split_of_another_producer() -> None:
    model = to_onnx(Network.chain([6, 10], output_activation=GroupedSoftmax(GROUPS)))
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    names = [f"g{k}" for k in range(len(GROUPS))]
    nodes = [
        gemm,
        helper.make_node("Split", [gemm.output[0], "sizes"], names, axis=1),
        *(helper.make_node("Softmax", [name], [f"s{name}"], axis=-1) for name in names),
        helper.make_node("Concat", [f"s{name}" for name in names], ["y"], axis=-1),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(GROUPS), "sizes"))
    network = from_onnx(model)
    assert network.layers[-1].activation == GroupedSoftmax(GROUPS)
    assert len(network.layers) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda nodes: nodes[-1].input.__delitem__(0), "all groups of a layer, in their order"),
        (lambda nodes: nodes[-1].input.reverse(), "all groups of a layer, in their order"),
        (lambda nodes: nodes[-1].attribute.__delitem__(0), "all groups of a layer"),
        (lambda nodes: setattr(nodes[2].attribute[0], "i", 0), "softmax is over each row"),
    ],
)
def test_groups_that_are_not_all_in_order_are_refused(change: Any, message: str) -> None:
    model = to_onnx(Network.chain([6, 10], output_activation=GroupedSoftmax(GROUPS)))
    change(model.graph.node)
    with pytest.raises(UnsupportedModelError, match=message):
        load(model)


@pytest.mark.parametrize(
    ("groups", "message"), [([2, 2], "groups of a softmax that are 3 units"), ([0, 3], "from 1 on")]
)
def test_groups_that_are_not_all_units_are_refused(groups: list[int], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Network.chain([2, 3], output_activation=GroupedSoftmax(groups))


def test_a_label_applies_above_one_half_of_its_group() -> None:
    network = Network.chain(
        [2, 4], output_activation=GroupedSoftmax([2, 2]), labels=["red", "blue", "big", "small"]
    )
    assert network.outputs[0].thresholds == (0.5,) * 4
    assert load(to_onnx(network)) == network
    with pytest.raises(NetworkError, match="4 softmax 2\\+2 columns"):
        conformal(network, RNG.normal(size=(30, 2)), RNG.normal(size=(30, 4)), alpha=0.1)


def test_int8_computes_it_as_well() -> None:
    network = Network.chain([6, 16, 10], "relu", GroupedSoftmax(GROUPS))
    assert quantize(network, X / 9).loss < 0.1


def test_it_is_served_batched_with_the_bits_of_single_rows(tmp_path: Path) -> None:
    export(SURVEY, tmp_path / "survey" / "1" / "model.onnx")
    with serving(tmp_path) as served:
        with Client(f"127.0.0.1:{served.server.port}") as client:
            together = client.predict("survey", X)
            for row, x in enumerate(X):
                single = client.predict("survey", x[np.newaxis])
                for name in together:
                    assert single[name].tobytes() == together[name][row : row + 1].tobytes()
        batching = served.server.catalog.find("survey").batching
    assert batching.invariance == "true", batching.reason
