import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from forwardpass.models import Dense, Input, Network, Output, forward, rounding_bound, to_onnx
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph
from forwardpass.proto import metadata
from forwardpass.proto.version import __version__


@pytest.fixture
def network():
    return Network.define(
        Input(4, features=["a", "b", "c", "d"], units=["mm"] * 4, mean=[1, 2, 3, 4], scale=[2] * 4),
        [
            Dense("trunk", 5, "tanh"),
            Dense("value", 2, "identity"),
            Dense("kind", 3, "softmax", reads=["trunk", "x"]),
            Dense("flag", 1, "sigmoid", reads="value"),
        ],
        [
            "kind",
            Output("number", "value", units=["EUR", "m"], description="two numbers"),
            Output("logits", "kind", "z", labels=["r", "g", "b"]),
            "flag",
            Output("again", "kind"),
        ],
        name="example",
        provenance={"made by": "hand", "accuracy": "97 %"},
    )


def nodes(model):
    return [
        (node.name, node.op_type, list(node.input), list(node.output)) for node in model.graph.node
    ]


def test_the_graph_has_the_lectures_names(network: Network) -> None:
    assert nodes(to_onnx(network)) == [
        ("x/Sub", "Sub", ["x", "x_mean"], ["x_centered"]),
        ("x/Div", "Div", ["x_centered", "x_scale"], ["a1"]),
        ("trunk/Gemm", "Gemm", ["a1", "W1", "b1"], ["z2"]),
        ("trunk/Tanh", "Tanh", ["z2"], ["a2"]),
        ("value/Gemm", "Gemm", ["a2", "W2", "b2"], ["number"]),
        ("kind/Gemm_1", "Gemm", ["a2", "W3_1", "b3"], ["z4_1"]),
        ("kind/Gemm_2", "Gemm", ["a1", "W3_2", "z4_1"], ["logits"]),
        ("kind/Softmax", "Softmax", ["logits"], ["kind"]),
        ("flag/Gemm", "Gemm", ["number", "W4", "b4"], ["z5"]),
        ("flag/Sigmoid", "Sigmoid", ["z5"], ["flag"]),
        ("again/Identity", "Identity", ["kind"], ["again"]),
    ]


def test_a_chain_is_gemm_and_activation_by_turns() -> None:
    assert nodes(to_onnx(Network.chain([3, 3, 1]))) == [
        ("L2/Gemm", "Gemm", ["x", "W1", "b1"], ["z2"]),
        ("L2/Relu", "Relu", ["z2"], ["a2"]),
        ("L3/Gemm", "Gemm", ["a2", "W2", "b2"], ["y"]),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mean": [1.0]}, [("x/Sub", "Sub", ["x", "x_mean"], ["a1"])]),
        ({"scale": [2.0]}, [("x/Div", "Div", ["x", "x_scale"], ["a1"])]),
        ({}, []),
    ],
)
def test_only_the_scaling_that_is_given_has_a_node(options, expected) -> None:
    model = to_onnx(Network.chain([1, 1], input=Input(1, **options)))
    assert nodes(model)[:-1] == expected


def test_versions_and_shapes_are_set(network: Network) -> None:
    model = to_onnx(network)
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    assert (model.producer_name, model.producer_version) == ("forwardpass", __version__)
    assert model.graph.name == "example"
    shapes = {
        value.name: (
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "x": (onnx.TensorProto.FLOAT, ["batch", 4]),
        "kind": (onnx.TensorProto.FLOAT, ["batch", 3]),
        "number": (onnx.TensorProto.FLOAT, ["batch", 2]),
        "logits": (onnx.TensorProto.FLOAT, ["batch", 3]),
        "flag": (onnx.TensorProto.FLOAT, ["batch", 1]),
        "again": (onnx.TensorProto.FLOAT, ["batch", 3]),
    }


def test_initializers_are_the_lectures_matrices(network: Network) -> None:
    arrays = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in to_onnx(network).graph.initializer
    }
    assert set(arrays) == {
        *("x_mean", "x_scale", "W1", "W2", "W3_1", "W3_2", "W4", "b1", "b2", "b3", "b4")
    }
    assert arrays["W1"].tobytes() == network.layer("trunk").W.tobytes()
    assert (np.hstack([arrays["W3_1"], arrays["W3_2"]]) == network.layer("kind").W).all()
    assert arrays["x_scale"].tolist() == [2, 2, 2, 2]


def test_attributes_are_those_that_differ_from_the_defaults(network: Network) -> None:
    attributes = {
        node.op_type: {each.name: each.i for each in node.attribute}
        for node in to_onnx(network).graph.node
    }
    assert attributes["Gemm"] == {"transB": 1}
    assert attributes["Softmax"] == {"axis": 1}
    assert attributes["Tanh"] == attributes["Sub"] == {}


def test_metadata_is_that_of_the_file_contract_in_sorted_order(network: Network) -> None:
    props = [(prop.key, prop.value) for prop in to_onnx(network).metadata_props]
    assert props == sorted(props)
    texts = dict(props)
    assert texts[metadata.FORMAT] == "1"
    assert texts[metadata.LAYERS] == '["trunk","value","kind","flag"]'
    assert metadata.load_columns(metadata.INPUTS, texts[metadata.INPUTS]) == {
        "x": metadata.ColumnNames(labels=("a", "b", "c", "d"), units=("mm",) * 4)
    }
    outputs = metadata.load_columns(metadata.OUTPUTS, texts[metadata.OUTPUTS])
    assert outputs["logits"] == metadata.ColumnNames(labels=("r", "g", "b"))
    assert outputs["number"] == metadata.ColumnNames(units=("EUR", "m"), description="two numbers")
    assert texts[metadata.PROVENANCE] == '{"accuracy":"97 %","made by":"hand"}'
    samples = metadata.Samples.load(texts[metadata.SAMPLES])
    assert list(samples.inputs) == ["x"]


def test_the_checker_and_shape_inference_agree(network: Network) -> None:
    onnx.checker.check_model(to_onnx(network), full_check=True)


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnx"])
def test_runtimes_compute_what_the_network_defines(network: Network, runtime) -> None:
    model = serialize(to_onnx(network))
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32) * 5
    if runtime == "onnx":
        graph = ReferenceEvaluator(model)
        answers = dict(zip(graph.output_names, graph.run(None, {"x": x}), strict=True))
    else:
        answers = load_graph(model).run(x)
    assert list(answers) == [output.name for output in network.outputs]
    for name, expected in forward(network, x).items():
        assert answers[name].dtype == np.float32
        assert (np.abs(answers[name] - expected) <= rounding_bound(network, x)[name]).all()


def test_bytes_are_the_same_in_another_process() -> None:
    program = (
        "import sys; from forwardpass.models import *; from forwardpass.models.file.graph import *;"
        "network = Network.chain([20, 30, 4], output_activation='softmax',"
        " provenance={'b': '1', 'a': '2'}, labels=list('abcd'));"
        "sys.stdout.buffer.write(serialize(to_onnx(network)))"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second
    assert len(first) > 20 * 30 * 4
