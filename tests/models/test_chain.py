"""Networks one after the other as one: what they compute stays, and what was rounded is said."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.networks import networks, rows

from forwardpass.models import (
    ActivationName,
    Categorical,
    Dense,
    Input,
    Network,
    NetworkError,
    Output,
    chain,
    export,
    load,
    merge,
    to_onnx,
)
from forwardpass.models.activations import activation_of
from forwardpass.models.file.graph import serialize

RNG = np.random.default_rng(0)
X = RNG.normal([50, 70, 70], [20, 15, 10], (40, 3)).astype(np.float32)
MEAN, SCALE = [0.3, -0.7], [3.0, 0.6]


def encoder(activation: ActivationName = "tanh") -> Network:
    return Network.define(
        Input(3, features=("age", "mass", "pulse"), mean=[50, 70, 70], scale=[20, 15, 10]),
        [Dense("trunk", 8, "tanh"), Dense("code", 2, activation), Dense("back", 3, "identity")],
        [
            Output("code", "code", labels=("u", "v"), units=("m", "s")),
            Output("sums", "code", "z"),
            Output("back", "back"),
        ],
        name="encoder",
        seed=1,
        provenance={"data": "rows"},
    )


def head(**source: Any) -> Network:
    return Network.define(
        Input(2, "code", **source),
        [Dense("trunk", 4, "relu"), Dense("kind", 3, "softmax", reads=("trunk", "code"))],
        [Output("kind", "kind", labels=("a", "b", "c"), thresholds=(0.5, 0.4, 0.3))],
        name="head",
        seed=2,
        provenance={"data": "codes"},
    )


def run(network: Network, x: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(serialize(to_onnx(network)))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {network.input.name: x}), strict=True))


def by_hand(network: Network, u: Any) -> Any:
    """The head on a code that nobody rounded: the mathematics, not the code under test."""
    source = network.input
    if source.mean is not None:
        u = u - source.mean.astype(np.float64)
    if source.scale is not None:
        u = u / source.scale.astype(np.float64)
    trunk, kind = network.layers
    hidden = np.maximum(u @ trunk.W.T.astype(np.float64) + trunk.b, 0)
    z = np.hstack([hidden, u]) @ kind.W.T.astype(np.float64) + kind.b
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_it_has_the_input_of_the_first_and_the_outputs_of_the_last() -> None:
    both = chain(encoder(), head(), reads="code", name="both")
    assert both.name == "both"
    assert both.input == encoder().input
    (kind,) = both.outputs
    assert (kind.name, kind.labels, kind.thresholds) == ("kind", ("a", "b", "c"), (0.5, 0.4, 0.3))
    # What leads to no output is left out, and a name that is taken gets a number.
    assert [layer.name for layer in both.layers] == ["trunk", "code", "trunk_2", "kind"]
    assert both.layer("kind").reads == ("trunk_2", "code")
    assert both.provenance == {"encoder: data": "rows", "head: data": "codes"}


@pytest.mark.parametrize("reads", ["code", "sums"])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({}, 1e-13),
        ({"mean": MEAN}, 1e-13),
        ({"scale": [4.0, 0.5]}, 1e-13),
        ({"mean": MEAN, "scale": [4.0, 0.5]}, 1e-13),
        ({"scale": SCALE}, 1e-6),
        ({"mean": MEAN, "scale": SCALE}, 1e-6),
    ],
)
def test_it_computes_one_after_the_other(source, error, reads, activation) -> None:
    before, after = encoder(activation), head(**source)
    expected = by_hand(after, before(X)[reads])
    np.testing.assert_allclose(chain(before, after, reads=reads)(X)["kind"], expected, atol=error)


@pytest.mark.parametrize("source", [{}, {"mean": MEAN}])
def test_without_rounding_a_file_gives_the_bits_of_two_files(source) -> None:
    code = run(encoder(), X)["code"]
    expected = run(head(**source), code)["kind"]
    got = run(chain(encoder(), head(**source), reads="code"), X)["kind"]
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("activation", "source", "said"),
    [
        ("tanh", {"mean": MEAN}, "mean exact, as layer code_centered"),
        ("identity", {"mean": [0.25, 1]}, "mean exact, in b of layer code"),
        ("identity", {"mean": [0.3, 1e-30]}, "mean exact, as layer code_centered"),
        ("tanh", {"scale": [2, 0.25]}, "scale exact, in W of layer trunk_2, kind"),
        ("tanh", {"scale": SCALE}, "1 / scale rounded to float32, as layer code_scaled"),
        (
            "tanh",
            {"mean": MEAN, "scale": SCALE},
            "mean exact, as layer code_centered; "
            "1 / scale rounded to float32, as layer code_scaled",
        ),
    ],
)
def test_what_became_of_the_scaling_is_said(activation, source, said) -> None:
    before = encoder(activation)
    if activation == "identity":  # float32 holds 0.5 - 0.25, and not 0.5 - 0.3
        layers = [
            Dense("trunk", W=before.layers[0].W, activation="tanh"),
            Dense("code", W=before.layers[1].W, b=[0.5, 3], activation="identity"),
        ]
        before = Network.define(before.input, layers, ["code"], name="encoder")
    both = chain(before, head(**source), reads="code")
    assert both.provenance["head: scaling"] == said


def test_weights_that_float32_holds_are_divided_and_others_stay_as_they_are() -> None:
    exact, rounded = head(scale=[2, 0.25]), head(scale=SCALE)
    divided = chain(encoder(), exact, reads="code").layer("trunk_2").W
    np.testing.assert_array_equal(divided * np.array([2, 0.25], np.float32), exact.layer("trunk").W)
    kept = chain(encoder(), rounded, reads="code")
    np.testing.assert_array_equal(kept.layer("trunk_2").W, rounded.layer("trunk").W)
    np.testing.assert_array_equal(
        kept.layer("code_scaled").W, np.diag(1 / np.array(SCALE, np.float32))
    )


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    before = Network.chain([1, 1], parameters=[([[1.0]], [0.0])], output="u")
    after = Network.chain(
        [1, 1], parameters=[([[1.0]], [0.0])], input=Input(1, mean=[1e6], scale=[0.3])
    )
    x = np.array([[1e6 + 0.5]], np.float32)
    got = run(chain(before, after), x)["y"]
    assert abs(got - 0.5 / np.float32(0.3)) < 1e-6


def test_three_are_one_after_the_other() -> None:
    units = Network.define(3, [Dense("pounds", W=np.eye(3) * 0.5, activation="identity")])
    all_three = chain(units, encoder(), head(mean=MEAN), reads=(None, "code"))
    expected = by_hand(head(mean=MEAN), encoder()(X / 2)["code"])
    np.testing.assert_allclose(all_three(X)["kind"], expected, atol=1e-6)
    # Networks of one name are told apart by their places.
    same = chain(Network.chain([2, 2]), Network.chain([2, 2], input=Input(2, scale=[3, 3])))
    assert list(same.provenance) == ["network 2: scaling"]


def test_scalings_of_merged_networks_are_kept_each_for_its_own() -> None:
    after = merge({"p": head(mean=MEAN), "q": head(scale=SCALE)})
    both = chain(encoder(), after, reads="code")
    code = encoder()(X)["code"]
    np.testing.assert_allclose(both(X)["p_kind"], by_hand(head(mean=MEAN), code), atol=1e-12)
    np.testing.assert_allclose(both(X)["q_kind"], by_hand(head(scale=SCALE), code), atol=1e-6)
    # And one that nothing reads any more is gone: the other is the input's own.
    other = Network.chain([3, 2], input=Input(3, features=encoder().input.features), output="y")
    before = merge({"e": encoder(), "o": other})
    assert chain(before, head(), reads="e_code").input == encoder().input
    assert chain(before, head(), reads="o_y").input == other.input


def test_the_file_is_proven_and_reads_back_equal(tmp_path: Path) -> None:
    both = chain(encoder(), head(mean=MEAN, scale=SCALE), reads="sums")
    proof = export(both, tmp_path / "m.onnx")
    assert proof.outputs["kind"].relative_error < 1e-6
    assert load(tmp_path / "m.onnx") == both


@settings(max_examples=30)
@given(st.data())
def test_any_output_that_a_layer_may_read_feeds_any_network(data) -> None:
    small = st.integers(-1, 1)
    before = data.draw(networks(small))
    output = data.draw(st.sampled_from(before.outputs))
    layer = before.layer(output.layer)
    assume(output.of == "z" or not activation_of(layer.activation).outputs_only)
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=layer.units).astype(np.float32), np.float32(0.7)
    after = Network.chain(
        [layer.units, 3],
        parameters=[(rng.standard_normal((3, layer.units)), [1, 2, 3])],
        input=Input(layer.units, mean=mean, scale=[0.7] * layer.units),
    )
    x = np.clip(data.draw(rows(before)), -100, 100)
    u = (before(x)[output.name] - mean) / np.float64(scale)
    W = after.layers[0].W.T.astype(np.float64)
    error = 1e-6 * (np.abs(u) @ np.abs(W)).max() + 1e-6
    got = chain(before, after, reads=output.name)(x)["y"]
    np.testing.assert_allclose(got, u @ W + after.layers[0].b, atol=error)


@pytest.mark.parametrize(
    ("after", "reads", "message"),
    [
        (
            head(),
            None,
            r"network 'encoder': expected one of its outputs \(code, sums, back\), got none",
        ),
        (head(), "cod", r"network 'encoder': .*, got 'cod'; name one of them"),
        (head(), "back", r"network 'head': expected to read columns of size 2, got 3 from output"),
        (head(features=("v", "u")), "code", r"of features \('v', 'u'\), got \('u', 'v'\) from"),
        (head(units=("m", "h")), "code", r"of units \('m', 'h'\), got \('m', 's'\) from output"),
        (head(), ("code", "kind"), r"network 'chained': expected 1 outputs to read, one for each"),
    ],
)
def test_networks_that_do_not_fit_are_refused_by_name(after, reads, message) -> None:
    with pytest.raises(NetworkError, match=message):
        chain(encoder(), after, reads=reads)


def test_logarithms_of_probabilities_are_no_input_and_their_sums_are() -> None:
    classes = Network.define(
        3, [Dense("kind", 2, "log_softmax")], ["kind", Output("sums", "kind", "z")]
    )
    with pytest.raises(NetworkError, match="a layer may read, got activations of log_softmax"):
        chain(classes, head(), reads="kind")
    assert chain(classes, head(), reads="sums").layer("kind").activation == "identity"


def test_the_first_may_have_any_inputs_and_those_that_nothing_reads_are_left_out() -> None:
    before = Network.define(
        [Input(1, "age"), Categorical("city", ("b", "c", "d")), Input(2, "other")],
        [
            Dense("code", 2, "tanh", reads=("age", "city")),
            Dense("rest", 2, "tanh", reads=("city", "other")),
        ],
        ["code", "rest"],
    )
    both = chain(before, head(mean=MEAN), reads="code")
    assert [each.name for each in both.inputs] == ["age", "city"]
    x: Any = {"age": [30.0, 40.0], "city": ["d", "b"]}
    code = before({**x, "other": np.zeros((2, 2))})["code"]
    np.testing.assert_allclose(both(x)["kind"], by_hand(head(mean=MEAN), code), atol=1e-12)


def test_a_later_network_may_have_further_inputs_and_share_those_of_the_first() -> None:
    city = Categorical("city", ("b", "c", "d"))
    before = Network.define(
        [Input(1, "age"), city],
        [Dense("code", 2, "tanh"), Dense("mass", 2, "tanh")],
        [Output("u", "mass")],
    )
    inputs: list[Input | Categorical] = [
        Input(1, "mass", mean=[70], scale=[10]),
        city,
        Input(2, "u", mean=MEAN),
    ]
    after = Network.define(inputs, [Dense("code", 3), Dense("y", 1, reads=("code", "mass"))])
    both = chain(before, after, reads="u")
    assert [each.name for each in both.inputs] == ["age", "city", "mass"]
    # The name of an input is its own: a layer before gives way.
    assert [each.name for each in both.layers] == ["code", "mass_2", "u_centered", "code_2", "y"]
    x: Any = {"age": [30.0, 40.0], "city": ["d", "b"], "mass": [60.0, 80.0]}
    u = before({key: x[key] for key in ("age", "city")})["u"]
    expected = after({"mass": x["mass"], "city": x["city"], "u": u})["y"]
    np.testing.assert_allclose(both(x)["y"], expected, atol=1e-6)
    assert load(serialize(to_onnx(both))) == both


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([Input(2, "u"), Input(1, "v")], r"one of its inputs to be named 'code', .* got 'u', 'v'"),
        ([Categorical("u", ("a", "b"))], "input 'u' of network 'after': .* got categories"),
        ([Input(2, "u", fill=[0, 1])], "input 'u' .* numbers without a fill, .* got a fill"),
        ([Input(2, "code"), Input(3)], "input 'x' of network 'after': expected that of the netw"),
    ],
)
def test_an_input_that_cannot_read_an_output_is_refused(inputs, message) -> None:
    after = Network.define(inputs, [Dense("y", 2)], name="after")
    with pytest.raises(NetworkError, match=message):
        chain(encoder(), after, reads="code")


def test_there_has_to_be_something_to_chain() -> None:
    with pytest.raises(NetworkError, match="expected at least one network, got none"):
        chain()
    assert chain(encoder()).outputs == encoder().outputs
