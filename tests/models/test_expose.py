"""Hidden activations and sums as outputs: names, values, what it costs in fused nodes."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.networks import networks, rows

from forwardpass.models import (
    Dense,
    Input,
    Network,
    NetworkError,
    Output,
    export,
    expose,
    load,
    propagate,
)

NETWORK = Network.chain([4, 8, 6, 3], ["relu", "tanh"], "softmax")
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("a", ["y", "a_2", "a_3"]),
        ("z", ["y", "z_2", "z_3", "z_4"]),
        ("za", ["y", "z_2", "a_2", "z_3", "a_3", "z_4"]),
        ("az", ["y", "z_2", "a_2", "z_3", "a_3", "z_4"]),
    ],
)
def test_what_is_exposed_is_named_after_the_lecture_and_follows_the_outputs(what, names) -> None:
    assert [output.name for output in expose(NETWORK, what).outputs] == names


def test_a_file_answers_with_what_forward_propagation_gives(tmp_path: Path) -> None:
    proof = export(expose(NETWORK, "za"), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    names = [output.name for output in session.get_outputs()]
    answers = dict(zip(names, session.run(None, {"x": X}), strict=True))

    assert names == list(proof.outputs) == ["y", "z_2", "a_2", "z_3", "a_3", "z_4"]
    # By hand: the mathematics, not the code under test.
    a = X.astype(np.float64)
    for number, layer in enumerate(NETWORK.layers, start=2):
        z = a @ layer.W.T.astype(np.float64) + layer.b
        np.testing.assert_allclose(answers[f"z_{number}"], z, rtol=1e-5, atol=1e-6)
        a = np.maximum(z, 0) if number == 2 else np.tanh(z)
        if number < 4:
            np.testing.assert_allclose(answers[f"a_{number}"], a, rtol=1e-5, atol=1e-6)


def test_what_an_output_shows_already_is_not_shown_again() -> None:
    layers = [Dense("trunk", 4), Dense("y", 2, "sigmoid")]
    network = Network.define(3, layers, ["y", Output("code", "trunk"), Output("logit", "y", "z")])
    assert expose(network, "a") == network
    assert [output.name for output in expose(network, "za").outputs][3:] == ["z_2"]


def test_of_an_identity_layer_z_and_a_are_one() -> None:
    network = Network.chain([3, 4, 2], "identity")
    for what, names in {"a": ["a_2"], "z": ["z_2"], "za": ["a_2"]}.items():
        exposed = expose(network, what)
        assert [output.name for output in exposed.outputs][1:] == names


def test_it_is_exposed_once() -> None:
    once = expose(NETWORK, "za")
    assert expose(once, "za") == once


@pytest.mark.parametrize("what", ["", "b", "aa", "zab", "a2"])
def test_only_a_and_z_can_be_exposed(what) -> None:
    with pytest.raises(NetworkError, match=r"expected 'a', 'z' or 'za' to expose, got"):
        expose(NETWORK, what)


@pytest.mark.parametrize("role", ["input", "output"])
def test_a_name_of_the_users_own_is_not_taken(role) -> None:
    source = Input(4, "a_2" if role == "input" else "x")
    output = "a_2" if role == "output" else "y"
    network = Network.chain([4, 8, 3], input=source, output=output)
    with pytest.raises(NetworkError, match=r"expected 'a_2' to be free for the activations of"):
        expose(network, "a")


@given(st.data())
def test_of_any_network_every_z_and_a_can_be_seen(data) -> None:
    network = data.draw(networks())
    x = data.draw(rows(network))
    exposed = expose(network, "za")
    shown = {(output.layer, output.of) for output in exposed.outputs}
    for layer in network.layers:
        assert (layer.name, "a") in shown
        assert (layer.name, "z") in shown or layer.activation == "identity"
    values = propagate(network, x)
    for name, value in exposed(x).items():
        expected = values.get(name, values.get(name.replace("_", "")))
        np.testing.assert_array_equal(value, expected)


def fused(network: Network, folder: Path) -> int:
    """Number of layers whose sum and activation onnxruntime computes in one node."""
    export(network, folder / "m.onnx", overwrite=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(folder / "m.onnx", options)
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Counter(node.op_type for node in nodes)["FusedGemm"]


def test_exposing_activations_keeps_layers_fused_and_exposing_sums_does_not(tmp_path: Path) -> None:
    network = Network.chain([4, 8, 6, 3], "relu")
    assert fused(network, tmp_path) == 2
    assert fused(expose(network, "a"), tmp_path) == 2
    assert fused(expose(network, "z"), tmp_path) == 0


def test_a_file_with_what_is_exposed_reads_back(tmp_path: Path) -> None:
    export(expose(NETWORK, "za"), tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == expose(NETWORK, "za")
