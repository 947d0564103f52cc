"""Static int8: what is measured, what is refused, what stands in the file."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from forwardpass.models import (
    ACTIVATIONS,
    Int8LossError,
    MissingLibraryError,
    Network,
    Quantized,
    UnsupportedModelError,
    export,
    expose,
    load,
    publish,
    quantize,
    to_onnx,
)
from forwardpass.models.zoo import ZOO
from forwardpass.proto.metadata import SAMPLES, Samples
from forwardpass.proto.spec import TensorError

NETWORK = Network.chain([20, 32, 16, 3], ["relu", "tanh"], "softmax", name="kinds")
ROWS = np.random.default_rng(0).standard_normal((200, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized() -> Quantized:
    return quantize(NETWORK, ROWS)


def model_of(quantized: Quantized) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(quantized.content)


def answers(content: bytes, rows):
    session = onnxruntime.InferenceSession(content)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: rows}), strict=True))


def by_hand(x):
    """The lecture's equations in float64, not the code under test."""
    a = x.astype(np.float64)
    functions: list[Callable[[Any], Any]] = [lambda z: np.maximum(z, 0), np.tanh, np.exp]
    for layer, f in zip(NETWORK.layers, functions, strict=True):
        a = f(a @ layer.W.T.astype(np.float64) + layer.b)
    return a / a.sum(axis=1, keepdims=True)


def test_the_loss_is_the_largest_error_over_all_rows_against_float64(quantized) -> None:
    expected = by_hand(ROWS)
    error = np.abs(answers(quantized.content, ROWS)["y"] - expected).max()
    proof = quantized.proof.outputs["y"]
    assert proof.largest_error == pytest.approx(error, rel=1e-6)
    assert quantized.loss == pytest.approx(error / expected.max(), rel=1e-6)
    assert quantized.proof.rows == 200
    # Eight bits, not float32: a loss that could be rounding would show that nothing was done.
    assert 1e-4 < quantized.loss < 0.05


def test_weights_are_integers_and_the_file_a_third_of_the_float32_one(quantized) -> None:
    held = {tensor.name: tensor.data_type for tensor in model_of(quantized).graph.initializer}
    for number in (1, 2, 3):
        assert held[f"W{number}_quantized"] == onnx.TensorProto.INT8
        assert f"W{number}" not in held
    network = Network.chain([256, 256, 10])
    rows = np.random.default_rng(1).standard_normal((8, 256))
    assert len(quantize(network, rows).content) < len(to_onnx(network).SerializeToString()) / 3


def test_every_scale_is_a_constant_of_the_file(quantized) -> None:
    graph = model_of(quantized).graph
    constants = {tensor.name for tensor in graph.initializer}
    nodes = Counter(node.op_type for node in graph.node)
    assert nodes["QuantizeLinear"] == 3
    assert "DynamicQuantizeLinear" not in nodes
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert set(node.input[1:]) <= constants


@pytest.mark.parametrize("exposed", ["a", "z", "za"])
@pytest.mark.parametrize("last", list(ACTIVATIONS))
def test_onnxruntime_computes_every_layer_in_integers_whatever_is_shown(
    tmp_path: Path, exposed, last
) -> None:
    network = expose(Network.chain([20, 16, 8, 3], ["relu", "tanh"], last), exposed)
    quantized = quantize(network, ROWS)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(quantized.content, options)
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert nodes["QGemm"] == 3
    assert nodes["Gemm"] == nodes["FusedGemm"] == 0
    # Integers add up to the same in any order: a row's bits are those that it gets alone, but for
    # the last ones of a few functions, which onnxruntime computes several numbers at a time.
    near = 4e-6 if last in ("elu", "selu", "softplus", "mish") else 0
    together = session.run(None, {"x": ROWS[:16]})
    for row in range(16):
        alone = session.run(None, {"x": ROWS[row : row + 1]})
        for one, all_rows in zip(alone, together, strict=True):
            assert np.abs(one - all_rows[row : row + 1]).max() <= near


def test_names_shapes_and_what_the_file_says_of_itself_stay(quantized) -> None:
    model, float32 = model_of(quantized), to_onnx(NETWORK)
    assert list(model.graph.input) == list(float32.graph.input)
    assert list(model.graph.output) == list(float32.graph.output)
    assert (model.graph.name, model.ir_version) == ("kinds", 8)
    assert list(model.opset_import) == list(float32.opset_import)
    assert model.producer_name == "forwardpass"
    texts = {each.key: each.value for each in model.metadata_props}
    before = {each.key: each.value for each in float32.metadata_props}
    assert texts.keys() == before.keys()
    changed = {key for key in texts if texts[key] != before[key]}
    assert changed == {"forwardpass.provenance", "forwardpass.samples"}
    told = json.loads(texts["forwardpass.provenance"])["int8"]
    assert f"200 rows; largest error over largest answer: y {quantized.loss:.2g}" in told


def test_the_files_own_samples_hold_within_what_the_file_states(quantized) -> None:
    texts = {each.key: each.value for each in model_of(quantized).metadata_props}
    samples = Samples.load(texts[SAMPLES])
    x, y = samples.inputs["x"], samples.outputs["y"]
    np.testing.assert_allclose(y, by_hand(x), rtol=1e-6)
    assert np.abs(answers(quantized.content, x)["y"] - y).max() <= samples.tolerance["y"]
    assert samples.tolerance["y"] == quantized.proof.outputs["y"].largest_bound
    assert quantized.proof.outputs["y"].largest_error <= samples.tolerance["y"] < 0.05


def test_no_row_that_was_given_is_in_the_file(quantized) -> None:
    for row in ROWS:
        assert row[:2].tobytes() not in quantized.content
    texts = {each.key: each.value for each in model_of(quantized).metadata_props}
    kept = Samples.load(texts[SAMPLES]).inputs["x"]
    assert not (kept[:, None] == ROWS[None]).all(axis=2).any()


def test_equal_networks_and_rows_give_equal_bytes(quantized) -> None:
    assert quantize(NETWORK, ROWS).content == quantized.content


def test_a_loss_above_what_is_allowed_is_refused_with_the_figure(quantized) -> None:
    assert quantize(NETWORK, ROWS, max_loss=quantized.loss).content == quantized.content
    limit = quantized.loss * 0.99
    with pytest.raises(Int8LossError, match=r"output 'y' in int8: .* got 0\.0") as caught:
        quantize(NETWORK, ROWS, max_loss=limit)
    assert (caught.value.loss, caught.value.max_loss) == (quantized.loss, limit)
    with pytest.raises(Int8LossError):
        quantize(NETWORK, ROWS, max_loss=0)


def test_rows_far_from_the_calibrated_ones_show_in_the_loss() -> None:
    rows = ROWS.copy()
    rows[3::4] *= 50  # those that only the measurement sees
    network = Network.chain([20, 32, 3])
    assert quantize(network, rows).loss > 10 * quantize(network, ROWS).loss


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:7], r"calibration rows of input 'x': expected at least 8 rows, got 7"),
        (ROWS[:, :3], r"input 'x': expected shape \[-1, 20\], got \[200, 3\]"),
        (np.where(ROWS > 3, np.nan, ROWS), r"calibration rows .* got NaN or infinity"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, message) -> None:
    with pytest.raises(TensorError, match=message):
        quantize(NETWORK, rows)


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError, match=r"onnxruntime, .* 'forwardpass\[server\]'"):
        quantize(NETWORK, ROWS)


def test_it_is_written_and_published_as_a_network_is(quantized, tmp_path: Path) -> None:
    assert export(quantized, tmp_path / "m.onnx") == quantized.proof
    assert (tmp_path / "m.onnx").read_bytes() == quantized.content
    published = publish(quantized, tmp_path)
    assert published.path == tmp_path / "kinds" / "1" / "model.onnx"
    assert published.path.read_bytes() == quantized.content
    assert published.proof == quantized.proof


def test_it_does_not_read_back_as_a_network(quantized) -> None:
    with pytest.raises(UnsupportedModelError, match="DequantizeLinear"):
        load(quantized.content)


def test_scaling_skips_heads_and_what_is_exposed_keep_their_outputs() -> None:
    example = ZOO["breast_cancer"]
    network, x = expose(example.network(), "za"), example.held_out().x
    quantized = quantize(network, x, max_loss=0.1)
    got, expected = answers(quantized.content, x), network(x)
    assert list(got) == [output.name for output in network.outputs]
    for name, values in expected.items():
        # By a float64 forward pass, which tests/models/test_forward.py checks by hand.
        assert np.abs(got[name] - values).max() <= quantized.proof.outputs[name].largest_bound
    malignant = (got["malignancy"] > 0.5) == (example.held_out().truth["malignancy"] > 0.5)
    assert malignant.mean() > 0.95
