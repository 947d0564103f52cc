"""The texts of a picture: what they say, and that none covers another."""

from itertools import combinations

import numpy as np
import pytest

from forwardpass.models import Dense, Input, Network, Output
from forwardpass.models.captions import Span, Text, captions, legend
from forwardpass.models.diagram import RADIUS, lay_out
from forwardpass.models.forward import forward
from forwardpass.models.zoo import ZOO

NETWORKS = {
    "3-3-1": ZOO["lecture_3_3_1"].network(),
    "3-3-2": ZOO["lecture_3_3_2"].network(),
    "30-64-32-2": Network.chain([30, 64, 32, 2], "relu", "softmax", labels=("benign", "malignant")),
    "two heads and a skip connection": ZOO["breast_cancer"].network(),
    "autoencoder": ZOO["digits_autoencoder"].network(),
    "three heads": ZOO["linnerud"].network(),
}


def texts_of(network: Network, *, filled: bool = False) -> list[Text]:
    diagram = lay_out(network)
    x = None
    if filled:
        mean = network.input.mean
        x = np.zeros(network.input.size, np.float32) if mean is None else np.float32(mean)
    texts = captions(network, diagram, x, {} if x is None else forward(network, x))
    return [*texts, *legend(0, diagram.bottom + 40, filled=filled)]


def words(text: Text) -> str:
    return "".join(span.text for span in text.spans)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_covers_another(name: str, filled: bool) -> None:
    for a, b in combinations(texts_of(NETWORKS[name], filled=filled), 2):
        apart = a.right < b.left or b.right < a.left
        assert apart or abs(a.y - b.y) >= max(a.size, b.size) - 1, (words(a), words(b))


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_covers_a_neuron(name: str, filled: bool) -> None:
    blocks = lay_out(NETWORKS[name]).blocks.values()
    neurons = [(block.x, y) for block in blocks for y in block.y]
    for text in texts_of(NETWORKS[name], filled=filled):
        for x, y in neurons:
            beside = text.right < x - RADIUS or text.left > x + RADIUS
            assert beside or text.y < y - RADIUS or text.y - text.size > y + RADIUS, words(text)


def test_headings_name_layer_width_activation_and_outputs() -> None:
    said = [words(text) for text in texts_of(NETWORKS["autoencoder"])]
    for heading in ("L1 x", "64 features", "L2 encoder", "40 relu", "12 tanh, output", "output"):
        assert heading in said
    said = [words(text) for text in texts_of(NETWORKS["two heads and a skip connection"])]
    for heading in ("L3 worst", "10 identity, output", "L4 malignancy", "1 sigmoid, output"):
        assert heading in said


def test_a_layer_named_by_its_number_is_not_named_twice() -> None:
    assert "L2" in [words(text) for text in texts_of(NETWORKS["30-64-32-2"])]


def test_features_and_labels_stand_beside_their_neurons_with_unit_and_value() -> None:
    network = Network.chain(
        [1, 1],
        parameters=[(np.ones((1, 1)), np.ones(1))],
        input=Input(1, features=("mass",), units=("kg",)),
        labels=("weight",),
        units=("N",),
    )
    said = [words(text) for text in captions(network, lay_out(network), None, {})]
    assert "mass (kg)" in said
    assert "weight (N)" in said
    x = np.array([1.5], np.float32)
    texts = captions(network, lay_out(network), x, forward(network, x))
    said = [words(text) for text in texts]
    assert "mass  1.5 kg" in said
    assert "weight  2.5 N" in said
    assert {text.y for text in texts if "kg" in words(text)} == {4.0}


def test_an_output_of_logits_says_so() -> None:
    network = Network.define(
        2,
        [Dense("p", 1, "sigmoid")],
        [Output("p", "p"), Output("logit", "p", of="z")],
    )
    assert "outputs p, logit (z)" in [words(text) for text in texts_of(network)]


def test_long_names_are_cut() -> None:
    network = Network.chain([1, 1], input=Input(1, features=("f" * 500,)))
    assert max(len(words(text)) for text in texts_of(network)) < 60


def test_text_is_escaped_and_without_control_characters() -> None:
    svg = Text(0, 0, [Span("<b> & \x00\n")]).svg()
    assert "&lt;b&gt; &amp; \ufffd\ufffd" in svg
