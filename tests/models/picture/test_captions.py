"""The texts of a picture: what they say."""

import numpy as np

from forwardpass.models import Dense, Input, LeakyRelu, Network, Output
from forwardpass.models.forward import forward
from forwardpass.models.picture.captions import captions
from forwardpass.models.picture.diagram import lay_out
from forwardpass.models.picture.text import Span, Text, fitted
from forwardpass.models.zoo import ZOO


def texts_of(network: Network) -> list[Text]:
    return captions(network, lay_out(network), {}, {})


def words(text: Text) -> str:
    return "".join(span.text for span in text.spans)


def test_headings_name_layer_width_activation_and_outputs() -> None:
    said = [words(text) for text in texts_of(ZOO["digits_autoencoder"].network())]
    for heading in ("L1 x", "64 features", "L2 encoder", "40 relu", "12 tanh, output", "output"):
        assert heading in said
    said = [words(text) for text in texts_of(ZOO["breast_cancer"].network())]
    for heading in ("L3 worst", "10 identity, output", "L4 malignancy", "1 sigmoid, output"):
        assert heading in said


def test_a_parameter_stands_beside_its_activation() -> None:
    network = Network.chain([3, 4, 2], LeakyRelu(0.2), "gelu_tanh")
    said = [words(text) for text in texts_of(network)]
    assert "4 leaky_relu 0.2" in said
    assert "2 gelu_tanh" in said


def test_a_layer_named_by_its_number_is_not_named_twice() -> None:
    assert "L2" in [words(text) for text in texts_of(Network.chain([3, 4, 2]))]


def test_features_and_labels_stand_beside_their_neurons_with_unit_and_value() -> None:
    network = Network.chain(
        [1, 1],
        parameters=[(np.ones((1, 1)), np.ones(1))],
        input=Input(1, features=("mass",), units=("kg",)),
        labels=("weight",),
        units=("N",),
    )
    said = [words(text) for text in captions(network, lay_out(network), {}, {})]
    assert "mass (kg)" in said
    assert "weight (N)" in said
    x = np.array([1.5], np.float32)
    texts = captions(network, lay_out(network), {"x": x[np.newaxis]}, forward(network, x))
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


def test_what_may_be_cut_is_cut_to_the_room_there_is_the_longest_first() -> None:
    line = [Span("mean concavity", elastic=True), Span("0.25"), Span(" mm", elastic=True)]
    full = sum(span.width for span in line)
    assert fitted(line, 10, 10 * full) == line
    cut = fitted(line, 10, 10 * full - 1)
    assert [span.text for span in cut] == ["mean concav\N{HORIZONTAL ELLIPSIS}", "0.25", " mm"]
    for room in range(0, 200, 7):
        wide = 10 * sum(span.width for span in fitted(line, 10, room))
        assert wide <= max(room, 10 * sum(span.width for span in fitted(line, 10, 0)))
    assert [span.text for span in fitted(line, 10, 0)][1] == "0.25"


def test_a_head_shows_its_activations_though_its_logits_are_named_first() -> None:
    network = Network.define(
        1,
        [Dense("p", 1, "sigmoid", W=[[0.0]], b=[0.0])],
        [Output("logit", "p", of="z"), Output("p", "p")],
    )
    x = np.ones(1, np.float32)
    assert "0.5" in map(
        words, captions(network, lay_out(network), {"x": x[np.newaxis]}, forward(network, x))
    )
