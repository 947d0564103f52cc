from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from forwardpass.models import (
    Dense,
    Input,
    Layer,
    Network,
    NetworkError,
    Output,
    UnsupportedModelError,
    export,
    load,
    to_onnx,
)
from forwardpass.models.file.graph import serialize
from forwardpass.proto import metadata

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([0.5, -0.5], np.float32)
SQUARE = np.array([[1, 2], [3, 4]], np.float32)


def model(nodes, outputs=("y",), inputs=None, constants=None, opset=17):
    """A model of any producer: nodes as (operator, inputs, output, attributes)."""
    inputs = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    constants = {"W": W, "b": B, "Q": SQUARE} | (constants or {})
    graph = helper.make_graph(
        [
            helper.make_node(operator, reads, [output], name=f"n{index}", **attributes)
            for index, (operator, reads, output, attributes) in enumerate(nodes)
        ],
        "theirs",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def gemm(a="x", W="W", c="b", out="s", **attributes):
    return ("Gemm", [a, W, c], out, {"transB": 1} | attributes)


@pytest.fixture
def rich():
    return Network.define(
        Input(3, "measured", ["a", "b", "c"], ["mm", "", "g"], [1, 2, 3], [0.1, 1, 10]),
        [
            Dense("trunk", 5, "tanh", b=[-0.0, 0, 1e-45, 3e38, 1]),
            Dense("value", 2, "identity", reads=["measured", "trunk"]),
            Dense("ü ber", 2, "softmax", reads=["value", "trunk"]),
        ],
        [
            Output("kind", "ü ber", labels=["a", "b"], description="which"),
            Output("z4", "ü ber", "z"),
            Output("number", "value", units=["EUR", ""]),
            Output("code", "trunk"),
            Output("code again", "trunk"),
            Output("sums", "trunk", "z"),
        ],
        name="rich network",
        provenance={"made by": "hand", "größe": "5"},
    )


@pytest.mark.parametrize("form", ["path", "text", "bytes", "message"])
def test_a_file_of_ours_gives_back_an_equal_network(rich, tmp_path: Path, form) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(serialize(to_onnx(rich)))
    sources: dict[str, Any] = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "message": onnx.load(path),
    }
    again = load(sources[form])
    assert again == rich
    assert serialize(to_onnx(again)) == path.read_bytes()


def test_a_file_that_was_exported_reads_back(tmp_path: Path) -> None:
    network = Network.chain([4, 3, 2], output_activation="softmax")
    export(network, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == network


def test_a_graph_of_other_names_without_metadata_reads_as_well() -> None:
    network = load(
        model(
            [
                ("Sub", ["x", "mean"], "shifted", {}),
                gemm("shifted", out="first"),
                ("Relu", ["first"], "r", {}),
                ("Identity", ["r"], "copy", {}),
                gemm("copy", "Q", "b", "partial"),
                gemm("shifted", "W", "partial", "sum"),
                ("Softmax", ["sum"], "y", {"axis": -1}),
            ],
            outputs=["y", "copy", "sum"],
            constants={"mean": np.array([1, 2, 3], np.float32)},
        )
    )
    assert network == Network(
        Input(3, mean=[1, 2, 3]),
        (
            Layer("L2", W, B, "relu", ("x",)),
            Layer("L3", np.hstack([SQUARE, W]), B, "softmax", ("L2", "x")),
        ),
        (Output("y", "L3"), Output("copy", "L2"), Output("sum", "L3", "z")),
        "theirs",
    )


def test_layers_come_in_the_order_in_which_they_are_complete() -> None:
    network = load(
        model(
            [
                gemm("x", "W", "b", "partial"),
                gemm("x", "W", "b", "other"),
                ("Tanh", ["other"], "t", {}),
                gemm("t", "Q", "partial", "y"),
            ]
        )
    )
    assert [each.reads for each in network.layers] == [("x",), ("x", "L2")]


def test_values_in_float_data_read_as_well() -> None:
    theirs = model([gemm(out="y")])
    tensor = theirs.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend(W.ravel())
    assert (load(theirs).layers[0].W == W).all()


def test_initializers_that_are_listed_as_inputs_are_no_inputs() -> None:
    theirs = model([gemm(out="y")])
    theirs.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [2, 3]))
    assert load(theirs).input == Input(3)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("Conv", ["x", "W"], "y", {})], r"'n0' \(Conv\): a Network has only .*Gemm, Sub, Div"),
        ([gemm(out="s"), ("Celu", ["s"], "y", {})], r"node 'n1' \(Celu\)"),
        ([gemm(out="y", transB=0)], r"node 'n0' \(Gemm\): expected alpha 1, .*'transB': 0"),
        ([gemm(out="y", alpha=0.5)], r"node 'n0' \(Gemm\): expected alpha 1, .*'alpha': 0\.5"),
        ([gemm(out="y", broadcast=1)], r"node 'n0' \(Gemm\): .* represent attribute 'broadcast'"),
        ([("Gemm", ["x", "W"], "y", {"transB": 1})], r"expected 3 inputs and 1 output, got 2"),
        ([("Relu", [], "y", {})], r"node 'n0' \(Relu\): expected 1 inputs and 1 output, got 0"),
        ([gemm("u", out="y")], r"node 'n0' \(Gemm\): reads 'u', which is not a tensor"),
        ([gemm(W="x", out="y")], r"node 'n0' \(Gemm\): expected 'x' to be an initializer"),
        ([gemm(W="b", out="y")], r"expected a matrix and a bias for each row, got \(2,\) and"),
        ([gemm(c="Q", out="y")], r"expected a matrix and a bias for each row, got .* and \(2, 2\)"),
        ([("Relu", ["x"], "y", {})], r"node 'n0' \(Relu\): expected 'x' to be a Gemm's sum"),
        (
            [gemm(), ("Relu", ["s"], "r", {}), ("Tanh", ["r"], "y", {})],
            r"node 'n2' \(Tanh\): expected 'r' to be a Gemm's sum that nothing else reads",
        ),
        (
            [gemm(), ("Relu", ["s"], "r", {}), ("Tanh", ["s"], "y", {})],
            r"node 'n2' \(Tanh\): expected 's' to be a Gemm's sum that nothing else reads",
        ),
        (
            [gemm(), ("Relu", ["s"], "r", {}), gemm("s", "Q", "b", "y")],
            r"node 'n2' \(Gemm\): reads 's', which is before an activation",
        ),
        (
            [gemm(), gemm("s", "Q", "b", "t"), ("Relu", ["s"], "y", {})],
            r"node 'n2' \(Relu\): expected 's' to be a Gemm's sum that nothing else reads",
        ),
        (
            [gemm(), gemm("s", "Q", "s", "y")],
            r"node 'n1' \(Gemm\): expected 's' to be a Gemm's sum that nothing else reads",
        ),
        (
            [gemm(), gemm("x", "W", "s", "y"), gemm("s", "Q", "b", "t")],
            r"node 'n2' \(Gemm\): reads 's', which is not a tensor of a Network",
        ),
        (
            [gemm(), ("Softmax", ["s"], "y", {"axis": 0})],
            r"node 'n1' \(Softmax\): axis=0, where a Network's softmax is over each row",
        ),
        (
            [gemm(out="s"), ("Sub", ["s", "b"], "y", {})],
            r"node 'n1' \(Sub\): a Network scales only its input",
        ),
        (
            [("Sub", ["x", "m"], "c", {}), gemm("x", out="y")],
            r"node 'n0' \(Sub\): a scaling that no layer reads",
        ),
        (
            [("Div", ["x", "m"], "c", {}), ("Sub", ["c", "m"], "d", {}), gemm("d", out="y")],
            r"node 'n1' \(Sub\): a Network scales only its input",
        ),
        ([("Sub", ["m", "x"], "c", {}), gemm("c", out="y")], r"reads 'm', which is not a tensor"),
        ([gemm(out="s")], r"output 'y': no layer's z or a"),
        ([("Identity", ["x"], "y", {})], r"output 'y': no layer's z or a"),
        ([gemm(W="D", out="y")], r"initializer 'D': expected float32 stored in the file itself"),
    ],
)
def test_what_no_network_has_is_refused_by_node_and_operator(nodes, message) -> None:
    constants = {"m": np.ones(3, np.float32), "D": W.astype(np.float64)}
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load(model(nodes, constants=constants))
    assert "serve the .onnx file as it is" in str(caught.value)


def test_an_operator_of_another_domain_is_refused_with_its_domain() -> None:
    theirs = model([gemm(out="y")])
    theirs.graph.node[0].domain = "com.example"
    with pytest.raises(UnsupportedModelError, match=r"node 'n0' \(com\.example\.Gemm\)"):
        load(theirs)


def test_a_node_without_a_name_is_named_by_its_output() -> None:
    theirs = model([("Conv", ["x", "W"], "y", {})])
    theirs.graph.node[0].name = ""
    with pytest.raises(UnsupportedModelError, match=r"node 'y' \(Conv\)"):
        load(theirs)


def test_parameters_that_no_network_has_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"layer 'L2': expected finite W, got nan at \[0, 0\]"):
        load(model([gemm(out="y")], constants={"W": W * np.nan}))
    with pytest.raises(NetworkError, match="layer 'L3': expected to be read by a layer or shown"):
        load(model([gemm(out="y"), gemm(out="dead")]))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(TensorProto.DOUBLE, ["n", 3]), (TensorProto.FLOAT, ["n", "m"]), (TensorProto.FLOAT, [3])],
)
def test_an_input_that_no_network_has_is_refused(kind, shape) -> None:
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    with pytest.raises(UnsupportedModelError, match=r"input 'x': a network's input is float32 of"):
        load(model([gemm(out="y")], inputs=inputs))


def test_an_input_that_no_layer_reads_is_refused() -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xu"]
    with pytest.raises(UnsupportedModelError, match="input 'u': no layer reads it"):
        load(model([gemm(out="y")], inputs=inputs))


@pytest.mark.parametrize("dims", [[2, 4], [2**40, 2**40], [-2, -3], [6]])
def test_a_shape_that_its_values_do_not_have_allocates_nothing(dims) -> None:
    theirs = model([gemm(out="y")])
    del theirs.graph.initializer[0].dims[:]
    theirs.graph.initializer[0].dims.extend(dims)
    with pytest.raises(UnsupportedModelError, match=r"'W'|a matrix"):
        load(theirs)


def test_values_in_another_file_are_refused() -> None:
    theirs = model([gemm(out="y")])
    tensor = theirs.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(UnsupportedModelError, match="initializer 'W': expected float32 stored in"):
        load(theirs)


@pytest.mark.parametrize("content", [b"\xff\xff not a model", b""])
def test_what_is_no_model_is_refused(tmp_path: Path, content) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    for source in (tmp_path / "m.onnx", content):
        with pytest.raises(UnsupportedModelError, match=r"not an ONNX model|an empty file"):
            load(source)


def with_metadata(key, text):
    changed = to_onnx(Network.chain([3, 2]))
    next(prop for prop in changed.metadata_props if prop.key == key).value = text
    return changed


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (metadata.LAYERS, '["a", "b"]', "expected a list of 1 names"),
        (metadata.LAYERS, "[", "not JSON"),
        (metadata.INPUTS, "[]", "expected an object of objects"),
        (metadata.PROVENANCE, "[]", "expected an object of texts"),
    ],
)
def test_metadata_against_the_contract_is_refused(key, text, message) -> None:
    with pytest.raises(metadata.MetadataError, match=message):
        load(with_metadata(key, text))


def test_labels_that_do_not_fit_are_refused_with_the_outputs_name() -> None:
    with pytest.raises(NetworkError, match="output 'y': expected 2 labels, one per column, got 1"):
        load(with_metadata(metadata.OUTPUTS, '{"y":{"labels":["a"]}}'))


def test_a_newer_form_of_the_metadata_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"version '2' is not '1', the only one"):
        load(with_metadata(metadata.FORMAT, "2"))


def test_a_text_of_a_file_does_not_make_an_error_too_long_to_read() -> None:
    for key in (metadata.FORMAT, metadata.INPUTS):
        with pytest.raises((UnsupportedModelError, metadata.MetadataError)) as refused:
            load(with_metadata(key, "[" + "long " * 10**6))
        assert 20 < len(str(refused.value)) < 2500


def test_what_is_no_file_of_a_model_is_not_advised_to_be_served(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"this is no model")
    with pytest.raises(UnsupportedModelError, match=r"junk.onnx: not an ONNX model; pass a whole"):
        load(str(tmp_path / "junk.onnx"))
    (tmp_path / "junk.onnx").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match=r"junk.onnx: an empty file; pass a whole"):
        load(tmp_path / "junk.onnx")
