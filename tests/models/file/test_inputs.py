"""Files of networks with several inputs: numbers, categories and missing values."""

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from forwardpass.models import (
    ACTIVATIONS,
    Categorical,
    Dense,
    ExportProofError,
    Input,
    Network,
    NetworkError,
    PRelu,
    Scaling,
    UnsupportedModelError,
    load,
    quantize,
    rounding_bound,
    to_onnx,
)
from forwardpass.models.file.export import proven
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.proof import prove
from forwardpass.proto import metadata

LEAST = -(2**63)


def network(*inputs, **layer) -> Network:
    return Network.define(list(inputs), [Dense("h", 4, "tanh", **layer), Dense("y", 2, "softmax")])


KINDS: dict[str, list[Any]] = {
    "refused texts": [Categorical("c", ["a", "b", "é"])],
    "texts, unknown zeros": [Categorical("c", ["a", "b", "c"], "zeros")],
    "texts, unknown b, missing a": [Categorical("c", ["a", "b", "c"], "b", "a")],
    "refused texts, missing b": [Categorical("c", ["a", "b", "c"], missing="b")],
    "texts, empty": [Categorical("c", ["", "b", "c"])],
    "one text": [Categorical("c", ["b"])],
    "refused integers": [Categorical("c", [-1, 5, 2**62])],
    "integers from 0": [Categorical("c", [0, 1, 2], "zeros")],
    "integers, missing 5": [Categorical("c", [-1, 5, 9], 9, 5)],
    "values": [Categorical("c", ["a", "b", "c"], values=[1.5, -2, 0])],
    "rows of values": [Categorical("c", [1, 5], "zeros", values=np.arange(8).reshape(2, 4) - 3)],
    "filled": [Input(3, mean=[1, 2, 3], scale=[2, 2, 2], fill=[7, np.nan, 0.5])],
    "filled, unscaled": [Input(2, "v", fill=[7, 8])],
    "two of numbers": [Input(2, mean=[1, 2]), Input(1, "z", scale=[3])],
    "all": [
        Input(2, features=["p", "q"], units=["m", ""], low=[0, 1], high=[1, 2], fill=[0, 1]),
        Categorical("c", ["a", "b"]),
        Categorical("d", [1, 2, 3], "zeros"),
        Input(1, "z", scale=[4]),
        Categorical("e", ["u", "v"], "u", values=[[1, 2, 3], [4, 5, 6]]),
    ],
}


def feeds(net: Network) -> dict[str, Any]:
    """Rows with known, unknown and missing categories, and missing numbers."""
    rng = np.random.default_rng(1)
    rows = {}
    for source in net.inputs:
        if isinstance(source, Categorical):
            other, none = ("unseen", "") if source.datatype == "BYTES" else (77, LEAST)
            values = [*source.categories, other, none]
            dtype = object if source.datatype == "BYTES" else np.int64
            rows[source.name] = np.array([values[k % len(values)] for k in range(12)], dtype)
            rows[source.name] = rows[source.name].reshape(-1, 1)
        else:
            x = rng.normal(size=(12, source.size)).astype(np.float32)
            x[rng.random(x.shape) < 0.3] = np.nan
            rows[source.name] = x
    return rows


@pytest.mark.parametrize("inputs", KINDS.values(), ids=KINDS)
def test_a_file_reads_back_as_an_equal_network_and_computes_it(inputs) -> None:
    net = network(*inputs)
    content, proof = proven(net)
    assert load(content) == net
    assert serialize(to_onnx(load(content))) == content
    assert proof.rows > 16
    rows = feeds(net)
    expected: Any = net(rows)["y"]
    bound = rounding_bound(net, rows)["y"]
    session = onnxruntime.InferenceSession(content)
    evaluator = ReferenceEvaluator(onnx.load_from_string(content))
    for (answers,) in (session.run(None, rows), evaluator.run(None, rows)):
        np.testing.assert_array_equal(np.isnan(answers), np.isnan(expected))
        known = ~np.isnan(expected)
        assert (np.abs(answers - expected)[known] <= bound[known]).all()
    assert np.isfinite(expected).any()


def test_the_reference_is_that_of_the_tables_rows() -> None:
    source = KINDS["texts, unknown b, missing a"][0]
    W = np.arange(12, dtype=np.float64).reshape(4, 3)
    net = network(source, W=W, b=[0.5] * 4)
    rows = feeds(net)
    one_hot = [dict(zip("abc", np.eye(3), strict=True)) | {"": np.eye(3)[0]}]
    a1 = np.array([one_hot[0].get(value, np.eye(3)[1]) for value in rows["c"][:, 0]])
    hidden = np.tanh(a1 @ W.T + 0.5)
    z = hidden @ net.layers[1].W.T.astype(np.float64) + net.layers[1].b
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(net(rows)["y"], expected, rtol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_activation_makes_an_answer_of_an_unknown_category(activation: Any) -> None:
    function = PRelu([0.1, 0.2, 0.3]) if activation == "prelu" else activation
    layer = Dense("y", 3, function, b=[0.5] * 3)
    net = Network.define(Categorical("c", ["a", "b"]), [layer])
    content, _ = proven(net)
    for rows in (1, 2, 9):
        x = np.array([["?"]] * rows, object)
        (answers,) = onnxruntime.InferenceSession(content).run(None, {"c": x})
        assert np.isnan(answers).all()


def test_the_file_says_what_its_inputs_take() -> None:
    texts = {entry.key: entry.value for entry in to_onnx(network(*KINDS["all"])).metadata_props}
    columns = metadata.load_columns(metadata.INPUTS, texts[metadata.INPUTS])
    assert columns["x"].fill == (0.0, 1.0)
    assert columns["c"] == metadata.ColumnNames(categories=("a", "b"))
    assert columns["d"] == metadata.ColumnNames(categories=(1, 2, 3), unknown="zeros")
    assert columns["e"] == metadata.ColumnNames(categories=("u", "v"), unknown="u")
    missing = to_onnx(network(Input(2, fill=[1, np.nan]), Categorical("c", [0, 1], 0, 0)))
    (text,) = (entry.value for entry in missing.metadata_props if entry.key == metadata.INPUTS)
    assert json.loads(text) == {
        "c": {"categories": [0, 1], "missing": 0, "unknown": 0},
        "x": {"fill": [1.0, None]},
    }
    opsets = {entry.domain: entry.version for entry in missing.opset_import}
    assert opsets == {"": 17, "ai.onnx.ml": 3}


def test_the_samples_have_texts_integers_and_missing_values() -> None:
    net = network(*KINDS["all"][:1], *KINDS["all"][2:])
    texts = {entry.key: entry.value for entry in to_onnx(net).metadata_props}
    samples = metadata.Samples.load(texts[metadata.SAMPLES])
    assert samples.inputs["d"].dtype == np.int64
    assert samples.inputs["d"][:, 0].tolist() == [1, 2, 3, 1, 0]
    assert samples.inputs["e"][:, 0].tolist() == [b"u", b"v", b"u", b"v", b"?"]
    assert np.isnan(samples.inputs["x"][-1]).all()
    rows = {name: array for name, array in samples.inputs.items() if name != "e"}
    rows["e"] = np.array([[each.decode()] for each in samples.inputs["e"][:, 0]], object)
    difference = np.abs(net(rows)["y"] - samples.outputs["y"])
    assert (difference <= samples.tolerance["y"]).all()
    # None of a category that is refused has an answer to compare.
    (text,) = (
        entry.value
        for entry in to_onnx(network(Categorical("c", ["a"]))).metadata_props
        if entry.key == metadata.SAMPLES
    )
    assert set(metadata.Samples.load(text).inputs["c"][:, 0]) == {b"a"}


def test_one_input_of_numbers_has_the_file_that_it_had() -> None:
    model = to_onnx(network(Input(2, mean=[1, 2], scale=[1, 2])))
    assert [node.op_type for node in model.graph.node][:3] == ["Sub", "Div", "Gemm"]
    assert [entry.domain for entry in model.opset_import] == [""]
    (samples,) = (e.value for e in model.metadata_props if e.key == metadata.SAMPLES)
    assert "datatype" not in samples


def test_scalings_of_filled_features_read_back() -> None:
    source = Input(2, fill=[1, 2], scalings=[Scaling("s", [1, 1], [2, 2]), Scaling("t", [3, 3])])
    for reads in (("x", "s", "t"), ("s", "t")):
        net = Network.define(
            [source, Categorical("c", ["a"])],
            [*(Dense(f"l_{name}", 1, reads=(name, "c")) for name in reads)],
            [f"l_{name}" for name in reads],
        )
        content, _ = proven(net)
        assert load(content) == net


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": np.array([0, 2])}, r"'c/Equal' \(Equal\): not as a Network fills in or encodes"),
        ({"0": np.array(1)}, r"'c/Less' \(Less\): not as a Network"),
        ({"nan": np.array(0, np.float32)}, r"'c/Where' \(Where\): expected NaN in place of rows"),
        ({"values": np.ones(2, np.float32)}, r"values of shape|expected"),
        ({"fill": np.ones(3, np.float32)}, r"'x/Where' .*: expected a value for each feature"),
        ({"codes": [1, 0]}, r"'c/LabelEncoder' .*: expected the categories' numbers to count"),
        ({"default": 2}, r"'c/LabelEncoder' .*: expected the categories' numbers to count"),
        ({"default": 1}, r"'c/Less' .*|'c/Where' \(Where\): not as a Network"),
        ({"to": TensorProto.DOUBLE}, r"'c/Cast' \(Cast\): expected float32"),
        ({"reads": "c/rows"}, r"'c/Where' .*: a scaling that no layer reads"),
        ({"reads": "c/index"}, r"reads 'c/index', which is not a tensor of numbers"),
        ({"reads x": "x"}, r"'x/Where' .*: a scaling that no layer reads"),
    ],
)
def test_what_is_not_as_a_network_encodes_an_input_is_refused(change, message) -> None:
    net = network(Input(2, fill=[1, 2]), Categorical("c", ["a", "b"], values=[[1, 2], [3, 4]]))
    model = to_onnx(net)
    nodes = {node.name: node for node in model.graph.node}
    names = {"nan": "number/nan", "fill": "x/fill"}
    for what, value in change.items():
        if isinstance(value, np.ndarray):
            name = names.get(what, f"c/{what}")
            (tensor,) = (each for each in model.graph.initializer if each.name == name)
            tensor.CopyFrom(numpy_helper.from_array(value, name))
        elif what.startswith("reads"):
            node = nodes["h/Gemm_1" if what == "reads x" else "h/Gemm_2"]
            node.input[0] = value
        else:
            node = nodes["c/Cast" if what == "to" else "c/LabelEncoder"]
            key = {"codes": "values_int64s", "default": "default_int64"}.get(what, what)
            (old,) = (each for each in node.attribute if each.name == key)
            old.CopyFrom(helper.make_attribute(key, value))
    with pytest.raises((UnsupportedModelError, NetworkError), match=message):
        load(model)


def test_a_graph_that_answers_unknown_categories_is_not_exported() -> None:
    net = network(Categorical("c", ["a", "b"]))
    model = to_onnx(net)
    (nan,) = (each for each in model.graph.initializer if each.name == "number/nan")
    nan.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), "number/nan"))
    with pytest.raises(ExportProofError, match="expected NaN for an unknown category, got"):
        prove(serialize(model), net)


def test_a_graph_that_fills_in_another_value_is_not_exported() -> None:
    net = network(Input(2, fill=[1, 2]))
    model = to_onnx(net)
    (fill,) = (each for each in model.graph.initializer if each.name == "x/fill")
    fill.CopyFrom(numpy_helper.from_array(np.array([1, 3], np.float32), "x/fill"))
    with pytest.raises(ExportProofError, match=r"for (typical row 16|no values)"):
        prove(serialize(model), net)


def test_int8_takes_one_input_of_numbers_and_its_missing_values() -> None:
    net = network(Input(3, fill=[1, np.nan, 2], scale=[2, 2, 2]))
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    x[::3, 0] = np.nan
    quantized = quantize(net, x)
    assert quantized.loss < 0.1
    session = onnxruntime.InferenceSession(quantized.content)
    (answers,) = session.run(
        None, {"x": np.array([[np.nan, 0, np.nan], [0, np.nan, 0]], np.float32)}
    )
    assert np.isfinite(answers).all(axis=1).tolist() == [True, False]
    np.testing.assert_allclose(answers[0], net([np.nan, 0, np.nan])["y"], atol=0.1)
    for inputs in (KINDS["two of numbers"], KINDS["refused texts"]):
        with pytest.raises(NetworkError, match="in int8: expected one input, of numbers, got '"):
            quantize(network(*inputs), x)
