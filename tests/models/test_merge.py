"""Several networks as one: what each answers stays, to the last bit."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import networks, rows

from forwardpass.models import (
    Dense,
    Input,
    Network,
    NetworkError,
    Output,
    Scaling,
    export,
    expose,
    load,
    merge,
    quantize,
    rounding_bound,
    to_onnx,
)
from forwardpass.models.file.graph import serialize
from forwardpass.models.picture.svg import to_svg

FEATURES: dict[str, Any] = {"features": ("age", "mass", "pulse"), "units": ("years", "kg", "1/min")}
X = np.random.default_rng(0).normal([50, 70, 70], [20, 15, 10], (40, 3)).astype(np.float32)


def heart() -> Network:
    return Network.define(
        Input(3, mean=[50, 70, 70], scale=[20, 15, 10], **FEATURES),
        [Dense("trunk", 8, "tanh"), Dense("risk", 1, "sigmoid", reads=("trunk", "x"))],
        [Output("risk", "risk", labels=("ill",), thresholds=(0.3,)), Output("z3", "risk", "z")],
        name="heart net",
        seed=1,
        provenance={"data": "heart study"},
    )


def lungs(source: Input | None = None) -> Network:
    return Network.define(
        source or Input(3, mean=[40, 80, 75], scale=[10, 10, 12], **FEATURES),
        [Dense("trunk", 5), Dense("kind", 2, "softmax")],
        [Output("kind", "kind", labels=("good", "bad"), units=("", ""), description="of lung")],
        seed=2,
        provenance={"data": "lung study"},
    )


def raw() -> Network:
    return Network.chain([3, 4, 1], "sigmoid", input=Input(3, **FEATURES), seed=3)


def answers(network: Network, x):
    session = onnxruntime.InferenceSession(serialize(to_onnx(network)))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {network.input.name: x}), strict=True))


ALL = {"heart": heart(), "lungs": lungs(), "raw": raw()}


def test_outputs_and_layers_have_their_networks_prefix() -> None:
    merged = merge(ALL, name="patient")
    assert merged.name == "patient"
    assert [output.name for output in merged.outputs] == [
        "heart_risk",
        "heart_z3",
        "lungs_kind",
        "raw_y",
    ]
    assert [layer.name for layer in merged.layers] == [
        "heart_trunk",
        "heart_risk",
        "lungs_trunk",
        "lungs_kind",
        "raw_L2",
        "raw_L3",
    ]
    assert merged.layer("heart_risk").reads == ("heart_trunk", "heart_x")
    assert merged.layer("raw_L2").reads == ("x",)


def test_what_is_known_of_outputs_and_features_stays() -> None:
    merged = merge(ALL)
    risk, _, kind, _ = merged.outputs
    assert (risk.labels, risk.thresholds) == (("ill",), (0.3,))
    assert (kind.labels, kind.units, kind.description) == (("good", "bad"), ("", ""), "of lung")
    assert (merged.input.features, merged.input.units) == tuple(FEATURES.values())
    assert merged.provenance == {"heart: data": "heart study", "lungs: data": "lung study"}


@pytest.mark.parametrize("chosen", [["heart", "lungs", "raw"], ["heart", "raw"], ["lungs"]])
def test_each_answers_bit_for_bit_what_it_answers_alone(chosen) -> None:
    single = {prefix: answers(ALL[prefix], X) for prefix in chosen}
    merged = answers(merge({prefix: ALL[prefix] for prefix in chosen}), X)
    expected = {f"{prefix}_{name}": y for prefix in chosen for name, y in single[prefix].items()}
    assert merged.keys() == expected.keys()
    for name, y in expected.items():
        assert merged[name].tobytes() == y.tobytes(), name


def test_each_keeps_its_own_scaling_and_one_that_all_share_is_the_inputs() -> None:
    merged = merge(ALL)
    assert merged.input.mean is merged.input.scale is None
    assert merged.input.scalings == (
        Scaling("heart_x", heart().input.mean, heart().input.scale),
        Scaling("lungs_x", lungs().input.mean, lungs().input.scale),
    )
    shared = merge({"heart": heart(), "lungs": lungs(heart().input)})
    assert shared.input == heart().input


def test_the_file_is_proven_and_reads_back_equal(tmp_path: Path) -> None:
    merged = merge(ALL)
    proof = export(merged, tmp_path / "m.onnx")
    assert max(output.relative_error for output in proof.outputs.values()) < 1e-6
    assert load(tmp_path / "m.onnx") == merged
    assert serialize(to_onnx(load(tmp_path / "m.onnx"))) == (tmp_path / "m.onnx").read_bytes()


def test_a_merged_network_merges_again() -> None:
    merged = merge({"a": merge({"heart": heart(), "lungs": lungs()}), "b": raw()})
    assert [each.name for each in merged.input.scalings] == ["a_heart_x", "a_lungs_x"]
    got = answers(merged, X)
    assert got["a_heart_risk"].tobytes() == answers(heart(), X)["risk"].tobytes()
    assert got["b_y"].tobytes() == answers(raw(), X)["y"].tobytes()


def test_it_is_a_network_like_any_other() -> None:
    merged = merge(ALL)
    assert pickle.loads(pickle.dumps(merged)) == copy.deepcopy(merged) == merged
    assert hash(merged) == hash(merge(ALL))
    assert "heart_x -> " not in repr(merged)
    assert {"a_2", "a_4", "a_6"} <= {output.name for output in expose(merged, "a").outputs}
    got, expected = answers(merged, X), merged(X)
    bounds = rounding_bound(merged, X)
    for name, y in expected.items():
        assert (np.abs(got[name] - y) <= bounds[name]).all()
        assert bounds[name].max() < 1e-4


def test_its_features_are_drawn_once_however_many_scalings_layers_read() -> None:
    svg = to_svg(merge(ALL), X[0])
    assert svg.count(">x<tspan") == 3
    assert "heart_trunk" in svg
    assert "raw_L2" in svg


def test_it_goes_to_int8_each_part_with_its_own_scales() -> None:
    merged = merge(ALL)
    quantized = quantize(merged, X)
    session = onnxruntime.InferenceSession(quantized.content)
    (risk,) = session.run(["heart_risk"], {"x": X})
    assert np.abs(risk - heart()(X)["risk"]).max() < 0.05


@settings(max_examples=25)
@given(st.data())
def test_any_network_merged_with_itself_answers_twice(data) -> None:
    network = data.draw(networks())
    x = data.draw(rows(network))
    single, merged = network(x), merge({"p": network, "q": network})(x)
    for name, y in single.items():
        np.testing.assert_array_equal(merged[f"p_{name}"], y)
        np.testing.assert_array_equal(merged[f"q_{name}"], y)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Input(4), r"network 'b': expected an input of size 3, as 'a' has, got 4"),
        (Input(3, "u"), r"network 'b': expected an input of name 'x', as 'a' has, got 'u'"),
        (
            Input(3, features=("mass", "age", "pulse"), units=FEATURES["units"]),
            r"network 'b': expected an input of features \('age', .*, got \('mass', 'age', 'pulse'",
        ),
        (Input(3, features=FEATURES["features"]), r"network 'b': .* of units \('years', "),
    ],
)
def test_inputs_that_differ_are_refused_by_name(other, message) -> None:
    with pytest.raises(NetworkError, match=message):
        merge({"a": heart(), "b": Network.chain([other.size, 2], input=other)})


def test_prefixes_that_make_one_name_of_two_are_refused() -> None:
    network = Network.chain([3, 2], output="b_y")
    with pytest.raises(NetworkError, match="different names, got 'a_b_y' twice"):
        merge({"a": network, "a_b": Network.define(3, [Dense("M2", 2)], [Output("y", "M2")])})
    with pytest.raises(NetworkError, match="expected a name of printable characters"):
        merge({"a/b": network})


def test_there_has_to_be_something_to_merge() -> None:
    with pytest.raises(NetworkError, match="expected at least one network to merge, got none"):
        merge({})


MEAN = [1.0, 2.0, 3.0]
BOTH = [Dense("p", 2, reads="s"), Dense("q", 2, reads="x")]


@pytest.mark.parametrize(
    ("source", "layers", "message"),
    [
        ({"scalings": (Scaling("s", [1, 2]),)}, BOTH, r"scaling 's' of input 'x': .*\(3,\)"),
        ({"scalings": (Scaling("s", None, [1, 0, 1]),)}, BOTH, r"scaling 's' of .* got 0 for"),
        ({"scalings": (Scaling("s", MEAN),), "mean": MEAN}, BOTH, r"input 'x': .* got both"),
        ({"scalings": (Scaling("x", MEAN),)}, BOTH[1:], r"of different names, got 'x' twice"),
        ({"scalings": (Scaling("s", MEAN),)}, BOTH[1:], r"scaling 's': expected to be read"),
        ({"scalings": (Scaling("s", MEAN),)}, BOTH[:1], r"make it the mean and scale of the input"),
        (
            {"scalings": (Scaling("s", MEAN),)},
            [Dense("p", 2, reads=("s", "x"))],
            r"layer 'p': expected to read the input scaled one way, got x and s",
        ),
    ],
)
def test_scalings_that_do_not_fit_are_refused(source, layers, message) -> None:
    with pytest.raises(NetworkError, match=message):
        Network.define(Input(3, **source), layers, [layer.name for layer in layers])


def test_a_scaling_scales() -> None:
    with pytest.raises(NetworkError, match="scaling 's': expected a mean, a scale or both"):
        Scaling("s")
