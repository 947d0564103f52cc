import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from forwardpass.models import (
    Dense,
    ExportProofError,
    Input,
    Network,
    Output,
    rounding_bound,
    to_onnx,
)
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.proof import prove
from forwardpass.models.trial_rows import typical_rows


@pytest.fixture
def network():
    return Network.define(
        Input(6, mean=np.arange(6), scale=np.arange(1, 7)),
        [
            Dense("trunk", 16),
            Dense("value", 2, "identity"),
            Dense("p", 1, "sigmoid", reads=["trunk", "x"]),
        ],
        ["p", Output("value", "value")],
    )


def changed(network, change):
    """The network's file after `change` had its way with the model."""
    model = to_onnx(network)
    change(model.graph)
    return serialize(model)


def test_it_reports_errors_and_bounds_of_each_output(network: Network) -> None:
    proof = prove(serialize(to_onnx(network)), network)
    assert proof.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert proof.rows > 20
    assert list(proof.outputs) == ["p", "value"]
    bounds = rounding_bound(network, typical_rows(network.input, 16))
    for name, output in proof.outputs.items():
        assert 0 < output.largest_error < output.largest_bound
        assert output.relative_error < 2e-6
        assert output.largest_bound == bounds[name].max()


def test_without_onnxruntime_the_reference_evaluator_runs_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    proof = prove(serialize(to_onnx(network)), network)
    assert proof.runtime == f"onnx {onnx.__version__} reference evaluator"
    assert proof.outputs["value"].relative_error < 2e-6


def test_onnxruntime_does_not_report(network: Network) -> None:
    prove(serialize(to_onnx(network)), network)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("name", ["W1", "W2", "W3_1", "W3_2", "b1", "b2", "b3", "x_mean"])
def test_one_wrong_number_anywhere_fails_it(network: Network, name) -> None:
    def spoil(graph):
        tensor = next(each for each in graph.initializer if each.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[0] += 1e-2
        tensor.raw_data = values.tobytes()

    with pytest.raises(ExportProofError, match=r"output '\w+' of the exported graph: expected"):
        prove(changed(network, spoil), network)


def test_the_error_names_output_row_and_numbers(network: Network) -> None:
    def shift(graph):
        next(t for t in graph.initializer if t.name == "b2").raw_data = np.array(
            [1, 1], np.float32
        ).tobytes()

    with pytest.raises(
        ExportProofError,
        match=r"output 'value' of the exported graph: expected \S+ \+- \S+ in column 0 for "
        r"typical row 0 \(batch of 1\), got \S+ from onnxruntime .*; nothing was written",
    ) as caught:
        prove(changed(network, shift), network)
    assert caught.value.output == "value"


def test_a_wrong_activation_or_order_of_reads_fails_it(network: Network) -> None:
    def relu_to_sigmoid(graph):
        next(node for node in graph.node if node.op_type == "Relu").op_type = "Sigmoid"

    def swap(graph):
        gemm = next(node for node in graph.node if node.name == "value/Gemm")
        gemm.input[0] = "z2"

    for change in (relu_to_sigmoid, swap):
        with pytest.raises(ExportProofError):
            prove(changed(network, change), network)


def test_a_graph_that_gives_nan_fails_it() -> None:
    network = Network.chain([1, 1], parameters=[([[1]], [0])])

    def spoil(graph):
        graph.initializer[0].raw_data = np.array([np.nan], np.float32).tobytes()

    with pytest.raises(ExportProofError, match="got nan from"):
        prove(changed(network, spoil), network)


def test_another_shape_fails_it(network: Network) -> None:
    wide = Network.chain([2, 3], parameters=[(np.ones((3, 2)), np.zeros(3))])
    narrow = Network.chain([2, 2], parameters=[(np.ones((2, 2)), np.zeros(2))])
    with pytest.raises(ExportProofError, match=r"expected float32 of shape \(1, 2\), got float32"):
        prove(serialize(to_onnx(wide)), narrow)


def test_a_network_that_overflows_everywhere_cannot_be_proven() -> None:
    network = Network.chain([1, 1, 1], parameters=[([[1]], [3e38]), ([[9]], [0])])
    with pytest.raises(ExportProofError, match=r"output 'y'.* may overflow; scale the input"):
        prove(serialize(to_onnx(network)), network)
