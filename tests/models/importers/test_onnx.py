"""Networks from ONNX files of any producer, against the files' own answers in float64."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.foreign import node, referenced, run, written
from support.imported import assert_imported
from support.networks import networks

from forwardpass.models import (
    Input,
    Network,
    NetworkError,
    Output,
    UnsupportedModelError,
    UnsupportedSourceError,
    forward,
    from_onnx,
    load,
    to_onnx,
)

NEWEST = onnx.defs.onnx_opset_version()
RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3)).astype(np.float32)
W = RNG.standard_normal((2, 3)).astype(np.float32)
B = np.array([0.5, -0.0], np.float32)
Q = RNG.standard_normal((2, 2)).astype(np.float32)
MEAN, SCALE = np.array([1, -2, 1e3], np.float32), np.array([0.5, 3, 7], np.float32)
CONSTANTS = {
    "W": W, "WT": W.T.copy(), "b": B, "brow": B[np.newaxis], "Q": Q, "mean": MEAN, "scale": SCALE,
    "one": np.float32(2.5), "negative": np.array([-1, 2, 3], np.float32),
    "half": np.array([0.5], np.float32),
    "b2": np.array([3, 4], np.float32), "flat": np.array([-1, 3]), "same": np.array([0, 2]),
    "zero": np.float32(0), "zeros": np.array([[0, -0.0]], np.float32),
    "infinity": np.float32(np.inf),
    "largest": np.float32(np.finfo(np.float32).max),
    "no": np.array(False), "B": B.reshape(2, 1), "axis": np.array([1]), "two": np.array([2]),
    "first": np.array([0]), "three": np.array([3]), "threes": np.array([2, 1]),
    "end": np.array([-1]), "start": np.array([-9]),
}  # fmt: skip


def model(*nodes, outputs=("y",), constants=None, **options):
    """A model with the constants that its nodes read."""
    known = CONSTANTS | (constants or {})
    read = {name for each in nodes for name in each.input} | set(constants or {})
    used = {name: values for name, values in known.items() if name in read}
    return written(nodes, used, outputs=outputs, **options)


def assert_same_answers(theirs, x=X):
    """Import a model and compare with the reference evaluator and onnxruntime, in float64."""
    network = from_onnx(theirs)
    expected = referenced(theirs, x)
    assert_imported(network, np.asarray(x, np.float32), expected)
    for name, values in run(theirs, x).items():
        np.testing.assert_allclose(expected[name], values, rtol=1e-12, atol=1e-12)
    return network


GEMM = node("Gemm", "x W b", "s", transB=1)

FORMS = {
    "Gemm, transB": [node("Gemm", "x W b", "y", transB=1)],
    "Gemm as PyTorch's Linear is not": [node("Gemm", "x WT b", "y")],
    "Gemm without C": [node("Gemm", "x W", "y", transB=1)],
    "Gemm, C left empty": [node("Gemm", "x W -", "y", transB=1)],
    "Gemm, C of one row": [node("Gemm", "x W brow", "y", transB=1)],
    "Gemm, C of one number": [node("Gemm", "x W half", "y", transB=1)],
    "Gemm, alpha and beta": [node("Gemm", "x W b", "y", transB=1, alpha=0.3, beta=-1.7)],
    "Gemm, beta 0": [node("Gemm", "x W b2", "y", transB=1, beta=0.0)],
    "Gemm on a Gemm": [GEMM, node("Gemm", "x W s", "y", transB=1)],
    "Gemm, beta on a Gemm": [GEMM, node("Gemm", "x W s", "y", transB=1, beta=0.3)],
    "Gemm of constants, transA": [
        node("Gemm", "Q WT -", "K", transA=1, transB=1),
        node("Transpose", "K", "Kt"), node("MatMul", "x Kt", "y"),
    ],
    "MatMul": [node("MatMul", "x WT", "y")],
    "MatMul, Add": [node("MatMul", "x WT", "s"), node("Add", "s b", "y")],
    "MatMul, Add the other way": [node("MatMul", "x WT", "s"), node("Add", "b s", "y")],
    "MatMul on a Transpose": [node("Transpose", "W", "t"), node("MatMul", "x t", "y")],
    "every activation": [
        GEMM, node("Relu", "s", "r"), node("Gemm", "r Q b", "t"), node("Sigmoid", "t", "u"),
        node("Gemm", "u Q b", "v"), node("Tanh", "v", "w"), node("Gemm", "w Q b", "p"),
        node("Softmax", "p", "y", axis=-1),
    ],
    "Softmax, axis left out": [GEMM, node("Softmax", "s", "y")],
    "Exp": [GEMM, node("Exp", "s", "y")],
    "an activation of the input": [node("Tanh", "x", "t"), node("Gemm", "t W b", "y", transB=1)],
    "activations in a row": [GEMM, node("Relu", "s", "r"), node("Sigmoid", "r", "y")],
    "Identity, Cast and Dropout": [
        node("Cast", "x", "c", to=TensorProto.DOUBLE), node("Cast", "c", "d", to=TensorProto.FLOAT),
        node("Identity", "d", "i"), node("Gemm", "i W b", "s", transB=1),
        node("Dropout", "s - no", "r"), node("Relu", "r", "y"),
    ],
    "Flatten and Reshape of rows": [
        node("Flatten", "x", "f"), node("Reshape", "f flat", "g"),
        node("Gemm", "g W b", "s", transB=1), node("Reshape", "s same", "y"),
    ],
    "Sub, Div": [
        node("Sub", "x mean", "c"), node("Div", "c scale", "n"),
        node("Gemm", "n W b", "y", transB=1),
    ],
    "Mul, Add before the first layer": [
        node("Mul", "scale x", "m"), node("Add", "m mean", "n"),
        node("Gemm", "n W b", "y", transB=1),
    ],
    "one number for all": [
        node("Sub", "x one", "c"), node("Mul", "c half", "n"),
        node("Gemm", "n W b", "y", transB=1),
    ],
    "negative factors": [
        node("Mul", "x negative", "m"), node("Div", "m negative", "d"), node("Sub", "one d", "n"),
        node("Gemm", "n W b", "y", transB=1),
    ],
    "factors between layers": [
        GEMM, node("Relu", "s", "r"), node("Mul", "r b2", "m"), node("Sub", "m one", "n"),
        node("Gemm", "n Q b", "t"), node("Div", "t b2", "y"),
    ],
    "BatchNormalization": [
        node("BatchNormalization", "x scale mean mean scale", "n", epsilon=1e-3),
        node("Gemm", "n W b", "s", transB=1),
        node("BatchNormalization", "s b2 b b b2", "t"), node("Relu", "t", "y"),
    ],
    "Concat, a skip connection": [
        GEMM, node("Relu", "s", "r"), node("Concat", "r x", "c", axis=1),
        node("Transpose", "K", "Kt"), node("MatMul", "c Kt", "y"),
    ],
    "Concat of heads": [
        GEMM, node("Relu", "s", "r"), node("Gemm", "r Q b", "t"), node("Sigmoid", "t", "u"),
        node("Concat", "u r x", "y", axis=-1),
    ],
    "a sum of layers": [
        GEMM, node("MatMul", "x WT", "t"), node("Add", "s t", "y"),
    ],
    "a difference of layers": [
        GEMM, node("MatMul", "x WT", "t"), node("Sub", "s t", "y"),
    ],
    "a residual connection": [
        GEMM, node("Relu", "s", "r"), node("Gemm", "r Q b", "t"), node("Add", "t r", "u"),
        node("Relu", "u", "y"),
    ],
    "JAX's relu and what it leaves of a mapped function": [
        GEMM, node("Max", "s zero", "r"), node("Transpose", "r", "t", perm=[0, 1]),
        node("Gemm", "t Q b", "u"), node("Max", "zero u", "y"),
    ],
    "Max with a zero a column": [GEMM, node("Max", "s zeros", "y")],
    "Max with constants": [GEMM, node("Max", "b s", "t"), node("Max", "t one", "y")],
    "Min with a constant": [GEMM, node("Min", "s half", "y")],
    "Clip between bounds": [GEMM, node("Clip", "s half one", "t"), node("Gemm", "t Q b", "y")],
    "Clip of the input": [node("Clip", "x zero one", "c"), node("Gemm", "c W b", "y", transB=1)],
    "Clip from another number": [GEMM, node("Clip", "s one", "y")],
    "Clip to another number": [GEMM, node("Clip", "s - half", "y")],
    "Clip without bounds": [GEMM, node("Clip", "s", "t"), node("Relu", "t", "y")],
    "Slice of the input": [
        node("Slice", "x axis three axis", "t"), node("Slice", "x first axis axis", "u"),
        node("Gemm", "x W b", "s", transB=1), node("Add", "s t", "v"), node("Add", "v u", "y"),
    ],
    "Slice of one of two values": [
        GEMM, node("Concat", "s x", "c", axis=1), node("Slice", "c two end axis", "y"),
    ],
    "Slice backwards": [GEMM, node("Slice", "s end start axis end", "y")],
    "Split in two": [
        node("Split", "x threes", "t u", axis=1), node("Mul", "u half", "v"),
        node("Add", "t v", "y"),
    ],
    "equal parts": [GEMM, node("Split", "s", "t u", axis=-1), node("Concat", "u t s", "y", axis=1)],
    "a mean over a row": [
        GEMM, node("ReduceMean", "s", "t", axes=[1]), node("Sub", "s t", "y"),
    ],
    "a sum over a row, less itself": [
        GEMM, node("ReduceSum", "s axis", "t"), node("Sub", "t s", "y"),
    ],
    "Clip from 0 on": [GEMM, node("Clip", "s zero", "y")],
    "Clip from 0 to the largest float": [GEMM, node("Clip", "s zero largest", "y")],
    "Clip from 0 to infinity": [GEMM, node("Clip", "s zero infinity", "y")],
    "a value added to itself": [GEMM, node("Add", "s s", "y")],
    "1 - p": [
        GEMM, node("Sigmoid", "s", "p"), node("Sub", "one p", "q"),
        node("Concat", "q p", "y", axis=1),
    ],
    "Constant nodes": [
        helper.make_node("Constant", [], ["K"], value=numpy_helper.from_array(W)),
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["l"], value_float=0.5),
        node("Gemm", "x K k", "s", transB=1), node("Add", "l s", "y"),
    ],
    "constants computed": [
        node("Mul", "b one", "c"), node("Add", "c b2", "d"), node("Sub", "d b2", "e"),
        node("Div", "e one", "f"), node("Squeeze", "B axis", "g"), node("Add", "f g", "h"),
        node("Concat", "two axis", "i", axis=0), node("Reshape", "h i", "j"),
        node("Squeeze", "j axis", "k"), node("Unsqueeze", "k axis", "l"),
        node("Transpose", "l", "m"), node("Cast", "m", "n", to=TensorProto.FLOAT),
        node("Identity", "n", "o"), node("MatMul", "o Q", "p"),
        node("Gemm", "x W p", "y", transB=1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_becomes_a_network_with_its_answers(form):
    extra = {"K": RNG.standard_normal((2, 5)).astype(np.float32)} if "Concat, a" in form else {}
    assert_same_answers(model(*FORMS[form], constants=extra))


@pytest.mark.parametrize(
    ("form", "layers"),
    [
        ("Gemm, transB", 1),
        ("Gemm on a Gemm", 1),
        ("MatMul, Add", 1),
        ("MatMul, Add the other way", 1),
        ("every activation", 4),
        ("Sub, Div", 1),
        ("factors between layers", 2),
        ("BatchNormalization", 1),
        ("a sum of layers", 1),
        ("a residual connection", 2),
    ],
)
def test_no_layer_is_made_where_none_is_needed(form, layers):
    assert len(from_onnx(model(*FORMS[form])).layers) == layers


@pytest.mark.parametrize(
    "form",
    ["Gemm, transB", "Gemm, C of one row", "MatMul, Add", "MatMul, Add the other way", "Sub, Div"],
)
def test_weights_that_nothing_is_folded_into_keep_their_bits(form):
    (layer,) = from_onnx(model(*FORMS[form])).layers
    assert layer.W.tobytes() == W.tobytes()
    assert layer.b.tobytes() == B.tobytes()  # the sign of its zero, too


def test_alpha_and_beta_are_multiplied_in_float64_and_rounded_once():
    (layer,) = from_onnx(model(*FORMS["Gemm, alpha and beta"])).layers
    alpha, beta = np.float64(np.float32(0.3)), np.float64(np.float32(-1.7))
    assert layer.W.tobytes() == (alpha * W).astype(np.float32).tobytes()
    assert layer.b.tobytes() == (beta * B).astype(np.float32).tobytes()


def test_scaling_before_the_first_layer_becomes_the_inputs():
    source = from_onnx(model(*FORMS["Sub, Div"])).input
    assert source.mean is not None
    assert source.scale is not None
    assert source.mean.tobytes() == MEAN.tobytes()
    assert source.scale.tobytes() == SCALE.tobytes()


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 12, 13, 17, 21, NEWEST])
def test_every_opset_from_7_on_is_read(opset):
    dropout = "s - no" if opset >= 12 else "s"
    theirs = model(
        node("BatchNormalization", "x scale mean mean scale", "n"),
        node("Gemm", "n W b", "s", transB=1),
        node("Dropout", dropout, "d"),
        node("Relu", "d", "r"),
        node("Reshape", "r same", "q"),
        node("MatMul", "q Q", "t"),
        node("Add", "b t", "u"),
        *([node("Softmax", "u", "y")] if opset >= 13 else [node("Softmax", "u", "y", axis=1)]),
        opset=opset,
    )
    network = from_onnx(theirs)
    assert network.sizes == (3, 2, 2)
    # The reference evaluator has no BatchNormalization of opset 7, onnxruntime no newest opset.
    assert_imported(network, X, run(theirs, X) if opset <= 21 else referenced(theirs, X))
    assert network.provenance == {"source": f"ONNX opset {opset} of hand 1"}


def heads():
    return model(
        node("Div", "x scale", "n"),
        node("Gemm", "n W b", "sums", name="trunk/Gemm", transB=1),
        node("Relu", "sums", "hidden"),
        node("Gemm", "hidden Q b", "logits", name="/model/kind/Gemm"),
        node("Softmax", "logits", "kind"),
        node("Gemm", "hidden other.value.weight b", "value"),
        outputs=["kind", "logits", "hidden", "value", "sums"],
        constants={"other.value.weight": Q},
    )


def test_heads_hidden_activations_and_sums_are_outputs_with_their_names():
    network = assert_same_answers(heads())
    assert network.outputs == (
        Output("kind", "model.kind"),
        Output("logits", "model.kind", "z"),
        Output("hidden", "trunk"),
        Output("value", "other.value"),
        Output("sums", "trunk", "z"),
    )
    assert [layer.name for layer in network.layers] == ["trunk", "model.kind", "other.value"]


def test_names_with_slashes_get_dots():
    theirs = model(node("Gemm", "in/x:0 W b", "out/y", transB=1), outputs=["out/y"],
                   inputs={"in/x:0": 3})  # fmt: skip
    network = from_onnx(theirs)
    assert (network.input.name, network.outputs[0].name) == ("in.x:0", "out.y")


def test_scikit_learns_scaler_becomes_the_inputs_scaling():
    theirs = model(
        node("Scaler", "x", "n", domain="ai.onnx.ml", offset=MEAN.tolist(), scale=[0.5, 2.0, 3.0]),
        node("Gemm", "n W b", "y", transB=1),
    )
    network = from_onnx(theirs)
    assert network.input.mean is not None
    assert network.input.mean.tobytes() == MEAN.tobytes()
    np.testing.assert_array_equal(network.input.scale, np.array([2, 0.5, 1 / 3], np.float32))
    assert network.layers[0].W.tobytes() == W.tobytes()
    assert_imported(network, X, referenced(theirs, X))


def test_outputs_can_be_chosen_ordered_and_renamed():
    network = from_onnx(heads(), outputs={"value": "price", "hidden": "code"}, name="cars")
    assert network.outputs == (Output("price", "other.value"), Output("code", "trunk"))
    assert (network.name, len(network.layers)) == ("cars", 2)


def test_what_leads_to_no_chosen_output_may_be_anything():
    label = [
        GEMM,
        node("Softmax", "s", "probabilities"),
        node("ArgMax", "probabilities", "label", axis=1),
    ]
    theirs = model(*label, outputs=["label", "probabilities"])
    assert from_onnx(theirs, outputs=["probabilities"]).sizes == (3, 2)
    message = r"node 'ArgMax to label' \(ArgMax\): .*; outputs that do not need it: proba"
    with pytest.raises(UnsupportedModelError, match=message):
        from_onnx(theirs)


def test_inputs_that_are_put_side_by_side_first_become_one():
    theirs = model(
        node("Concat", "age rest", "all", axis=1),
        node("Gemm", "all W b", "y", transB=1),
        inputs={"rest": 2, "age": 1},
    )
    network = from_onnx(theirs)
    assert network.input == Input(3, "x", features=("age", "rest[0]", "rest[1]"))
    apart = {"age": X[:, :1], "rest": X[:, 1:]}
    assert_imported(network, X, referenced(theirs, apart))


def test_labels_units_and_provenance_of_the_file_are_kept_and_can_be_given():
    theirs = model(*FORMS["Gemm, transB"])
    texts = {
        "forwardpass.inputs": '{"x":{"labels":["a","b","c"],"units":["m","","g"]}}',
        "forwardpass.outputs": '{"y":{"labels":["p","q"],"description":"of it"}}',
        "forwardpass.provenance": '{"made by":"hand"}',
    }
    for key, text in texts.items():
        theirs.metadata_props.add(key=key, value=text)
    network = from_onnx(theirs)
    assert network.input == Input(3, "x", ["a", "b", "c"], ["m", "", "g"])
    assert network.outputs[0].labels == ("p", "q")
    assert network.outputs[0].description == "of it"
    assert network.provenance == {"made by": "hand"}
    given = from_onnx(theirs, labels={"y": ["u", "v"]}, units={"y": ["s", "s"]})
    assert (given.outputs[0].labels, given.outputs[0].units) == (("u", "v"), ("s", "s"))
    with pytest.raises(NetworkError, match="labels: expected those of the outputs y"):
        from_onnx(theirs, labels={"z": ["u", "v"]})


def test_a_given_input_brings_its_names_and_its_scaling():
    source = Input(3, "lab", ["a", "b", "c"], mean=[1, 2, 3], scale=[1, 2, 4])
    theirs = model(*FORMS["Sub, Div"])
    network = from_onnx(theirs, input=source)
    assert (network.input.name, network.input.features) == ("lab", ("a", "b", "c"))
    raw = (X * [1, 2, 4] + [1, 2, 3]).astype(np.float32)
    expected = referenced(theirs, (raw.astype(np.float64) - [1, 2, 3]) / [1, 2, 4])
    assert_imported(network, raw, expected)
    with pytest.raises(NetworkError, match=r"input 'x': expected size 3, that of .*'x', got 4"):
        from_onnx(theirs, input=Input(4))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_weights_are_float32_to_the_bit(dtype):
    theirs = model(*FORMS["Gemm, transB"])
    for tensor in theirs.graph.initializer:
        narrow = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    theirs.graph.input[0].type.tensor_type.elem_type = dtype
    expected = numpy_helper.to_array(theirs.graph.initializer[0]).astype(np.float32)
    network = from_onnx(theirs)
    assert network.layers[0].W.tobytes() == expected.tobytes()
    assert_imported(network, X, referenced(theirs, X))


def test_float64_is_taken_where_float32_has_it_and_else_only_rounded_on_demand():
    cast = [node("Cast", "x", "c", to=TensorProto.DOUBLE), node("Gemm", "c D e", "y", transB=1)]
    exact = {"D": W.astype(np.float64), "e": B.astype(np.float64)}
    assert from_onnx(model(*cast, constants=exact)).layers[0].W.tobytes() == W.tobytes()
    theirs = model(*cast, constants=exact | {"D": W.astype(np.float64) + 1e-12})
    with pytest.raises(UnsupportedSourceError, match=r"constant 'D': float64 .* round_float64=Tr"):
        from_onnx(theirs)
    rounded = (W.astype(np.float64) + 1e-12).astype(np.float32)
    (layer,) = from_onnx(theirs, round_float64=True).layers
    assert layer.W.tobytes() == rounded.tobytes()
    rows = model(*cast[1:], node("Cast", "x", "c"), constants=exact, kind=TensorProto.DOUBLE)
    rows.graph.node.insert(0, rows.graph.node.pop())
    rows.graph.node[0].attribute.add(name="to", type=2, i=TensorProto.DOUBLE)
    with pytest.raises(UnsupportedSourceError, match="input 'x': takes float64, and a Network"):
        from_onnx(rows)
    assert from_onnx(rows, round_float64=True).sizes == (3, 2)


@settings(max_examples=50, deadline=None)
@given(networks(exponents=st.integers(-1, 1)))
def test_files_of_ours_are_read_with_their_weights_and_answers(network):
    model = to_onnx(network)
    again = from_onnx(model, name=network.name)
    assert again.outputs == network.outputs
    for ours, theirs in zip(again.layers, load(model).layers, strict=True):
        assert ours == theirs


def test_the_range_of_each_feature_is_kept():
    ranged = Input(2, low=np.array([-1, 0.25], np.float32), high=np.array([1, 0.5], np.float32))
    network = Network.chain((2, 3), input=ranged)
    again = from_onnx(to_onnx(network)).input
    assert again.low is not None
    assert again.high is not None
    assert again.low.tolist() == [-1, 0.25]
    assert again.high.tolist() == [1, 0.5]


@st.composite
def graphs(draw):
    """A graph of the operators that are read, in any order, on values of any earlier node."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    constants = {"W0": rng.standard_normal((4, draw(st.integers(1, 4)))).astype(np.float32)}
    nodes: list[onnx.NodeProto] = []
    widths = {"x": 4}

    def constant(*shape):
        name = f"c{len(constants)}"
        signs = rng.choice([-1.0, 1.0], shape)
        constants[name] = (rng.uniform(0.5, 2, shape) * signs).astype(np.float32)
        return name

    def add(operator, reads, width, **attributes):
        name = f"v{len(nodes)}"
        nodes.append(node(operator, reads, [name], **attributes))
        widths[name] = width

    add("MatMul", ["x", "W0"], constants["W0"].shape[1])
    operators = ["Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Concat", "Sum", "Identity", "Tanh"]
    for _ in range(draw(st.integers(1, 8))):
        value = draw(st.sampled_from(list(widths)))
        width = widths[value]
        operator = draw(st.sampled_from([*operators, "Relu", "Sigmoid", "Flatten", "Chain"]))
        units = draw(st.integers(1, 4))
        match operator:
            case "Gemm":
                weights = constant(units, width)
                alpha = draw(st.sampled_from([1.0, 0.5, -0.3]))
                add("Gemm", [value, weights, constant(units)], units, transB=1, alpha=alpha)
            case "MatMul":
                add("MatMul", [value, constant(width, units)], units)
            case "Chain":
                addends = [name for name, other in widths.items() if other == units]
                if addends:
                    c = draw(st.sampled_from(addends))
                    add("Gemm", [value, constant(width, units), c], units)
            case "Add" | "Sub" | "Mul" | "Div":
                shape = draw(st.sampled_from([(), (1,), (width,), (1, width)]))
                pair = [value, constant(*shape)]
                if operator != "Div" and draw(st.booleans()):
                    pair.reverse()
                add(operator, pair, width)
            case "Sum":
                other = draw(st.sampled_from([n for n, w in widths.items() if w == width]))
                add(draw(st.sampled_from(["Add", "Sub"])), [value, other], width)
            case "Concat":
                other = draw(st.sampled_from(list(widths)))
                add("Concat", [value, other], width + widths[other], axis=1)
            case _:
                add(operator, [value], width)
    computed = list(widths)[1:]
    read = {name for each in nodes for name in each.input}
    outputs = [name for name in computed if name not in read or draw(st.booleans())]
    return written(nodes, constants, width=4, outputs=outputs)


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_any_graph_of_these_operators_becomes_a_network_with_its_answers(theirs, seed):
    x = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)
    network = from_onnx(theirs)
    answers = forward(network, x)
    expected, ran = referenced(theirs, x), run(theirs, x)
    assert list(answers) == list(expected)
    largest = max(1.0, *(float(np.abs(values).max()) for values in expected.values()))
    for name, values in expected.items():
        assert np.abs(answers[name] - values).max() <= 1e-5 * largest
        assert np.abs(ran[name] - values).max() <= 1e-12 * largest


REFUSED = {
    "Conv": ([node("Conv", "x W", "y")], r"node 'Conv to y' \(Conv\): a Network cannot"),
    "fused": (
        [node("FusedGemm", "x W b", "y", domain="com.microsoft", activation="Relu")],
        r"node 'FusedGemm to y' \(com.microsoft.FusedGemm\): a Network cannot represent it, only",
    ),
    "Gemm of another": ([node("Gemm", "x W b", "y", domain="other")], r"\(other.Gemm\)"),
    "Celu": ([GEMM, node("Celu", "s", "y")], r"\(Celu\)"),
    "transA": ([node("Gemm", "x W b", "y", transA=1)], r"\(Gemm\): transA=1, which takes columns"),
    "weights from outside": ([GEMM, node("MatMul", "x s", "y")], r"input 1, 's', to be a constant"),
    "no weights": ([node("Gemm", "x", "y")], r"expected input 1, '', to be a constant"),
    "weights that do not fit": (
        [node("MatMul", "x Q", "y")],
        r"\(MatMul\): weights of shape \(2, 2\) on rows of 3 values",
    ),
    "a vector as weights": ([node("MatMul", "x mean", "y")], r"weights of shape \(3,\) on rows"),
    "a bias a row": (
        [node("Gemm", "x W Q", "y", transB=1)],
        r"a constant of shape \(2, 2\) on rows of 2 values",
    ),
    "a constant that widens": (
        [node("MatMul", "x E", "s"), node("Add", "s b", "y")],
        r"\(Add\): a constant of shape \(2,\) on rows of 1 values",
    ),
    "more axes": ([GEMM, node("Add", "s F", "y")], r"a constant of shape \(1, 1, 2\) on rows"),
    "products of values": (
        [GEMM, node("Mul", "s s", "y")],
        r"\(Mul\): expected input 0, 's', to be a constant",
    ),
    "division by a value": ([GEMM, node("Div", "b s", "y")], r"\(Div\): reads the constant 'b'"),
    "division by zero": ([GEMM, node("Div", "s Z", "y")], r"\(Div\): divides by zero"),
    "sums of two widths": ([GEMM, node("Add", "s x", "y")], r"adds values of widths 2 and 3"),
    "Softmax over the batch": ([GEMM, node("Softmax", "s", "y", axis=0)], r"axis=0, where a Netw"),
    "LogSoftmax inside": (
        [GEMM, node("LogSoftmax", "s", "p"), node("Gemm", "p Q b", "y")],
        r"node 'LogSoftmax to p' \(LogSoftmax\): log_softmax, which node 'Gemm to y'",
    ),
    "Concat of rows": ([node("Concat", "x x", "y", axis=0)], r"\(Concat\): axis=0, where a Netw"),
    "Concat with a constant": ([GEMM, node("Concat", "s b", "y", axis=1)], r"the constant 'b'"),
    "Flatten of everything": ([node("Flatten", "x", "y", axis=0)], r"axis=0, which takes rows ap"),
    "Reshape of rows": (
        [GEMM, node("Reshape", "s R", "y")],
        r"\(Reshape\): to \[-1, 1\], which is not proven to keep the rows",
    ),
    "Reshape of the rest": ([GEMM, node("Reshape", "s U", "y")], r"to \[-1, -1\], which is not"),
    "Reshape to what is computed": (
        [GEMM, node("Shape", "s", "h"), node("Reshape", "s h", "y")],
        r"\(Shape\): a Network cannot represent it",
    ),
    "a random Dropout": ([GEMM, node("Dropout", "s - T", "y")], r"training_mode is not false"),
    "its mask": (
        [GEMM, node("Dropout", "s", "d m"), node("Cast", "m", "y", to=TensorProto.FLOAT)],
        r"reads 'm', which no earlier node computes",
    ),
    "a cast to whole numbers": ([GEMM, node("Cast", "s", "y", to=TensorProto.INT64)], "type INT64"),
    "a circle": (
        [node("Add", "x t", "s"), node("Relu", "s", "t"), node("Relu", "t", "y")],
        r"node 'Add to s' \(Add\): depends on a cycle of nodes",
    ),
    "Max of two values": ([GEMM, node("Relu", "s", "t"), node("Max", "s t", "y")], r"\(Max\)"),
    "Max of one value": ([GEMM, node("Max", "s", "y")], r"\(Max\): reads '', which no earlier"),
    "Max of constants": (
        [node("Max", "b b2", "c"), node("Gemm", "x W c", "y", transB=1)], r"\(Max\)",
    ),
    "Clip at a NaN": ([GEMM, node("Clip", "s N nan", "y")], r"\(Clip\): bounds of 0 to nan"),
    "Clip to nothing": ([GEMM, node("Clip", "s six N", "y")], r"\(Clip\): bounds of 6 to 0"),
    "Slice of rows": (
        [GEMM, node("Slice", "s first two first", "y")],
        r"\(Slice\): axes=\[0\], where a Network chooses among the values of a row",
    ),
    "Slice of nothing": (
        [GEMM, node("Slice", "s two two axis", "y")], r"\(Slice\): chooses no values",
    ),
    "Split of rows": ([GEMM, node("Split", "s", "y z")], r"\(Split\): axis=0, which takes rows"),
    "Split into more": (
        [GEMM, node("Split", "s threes", "y z", axis=1)], r"\(Split\): into \[2, 1\] of 2 values",
    ),
    "a mean over rows": (
        [GEMM, node("ReduceMean", "s", "y", axes=[0])], r"\(ReduceMean\): axes=\[0\]: an answer",
    ),
    "Squeeze of several": (
        [GEMM, node("Squeeze", "s axis", "y")], r"\(Squeeze\): axes=\[1\] of rows of 2 values",
    ),
    "one number a row where rows are": (
        [GEMM, node("ReduceSum", "s axis", "t", keepdims=0), node("Add", "x t", "y")],
        r"\(Add\): reads 't', which has one number a row without its axis",
    ),
    "rows as columns": ([GEMM, node("Transpose", "s", "y", perm=[1, 0])], r"perm=\[1, 0\], which"),
    "rows as columns, unsaid": ([GEMM, node("Transpose", "s", "y")], r"perm=\[1, 0\], which takes"),
    "a name twice": ([GEMM, node("Relu", "x", "s"), node("Relu", "s", "y")], "'s', which another"),
    "a constant's name": ([node("Relu", "x", "b"), node("Gemm", "b W b", "y")], "'b', which is"),
    "an unknown attribute": ([node("Gemm", "x W b", "y", broadcast=1)], r"attribute 'broadcast'"),
    "a fourth input": ([node("Gemm", "x W b b", "y", transB=1)], r"expected 3 inputs at most"),
    "a constant answer": (
        [GEMM, node("Relu", "s", "t"), node("Identity", "b", "y")],
        "graph: no node that leads to an output reads an input",
    ),
    "weights as whole numbers": (
        [node("Gemm", "x I b", "y", transB=1)],
        r"constant 'I': int64 where a Network has real numbers",
    ),
    "text": ([node("Gemm", "x S b", "y", transB=1)], r"initializer 'S': of type string"),
    "training": (
        [node("BatchNormalization", "x scale mean mean scale", "y", training_mode=1)],
        r"training_mode=1: its answers depend on the other rows",
    ),
    "training, as opset 9 has it": (
        [node("BatchNormalization", "x scale mean mean scale", "y m v m2 v2")],
        r"\(BatchNormalization\): 5 outputs, as in training: its answers depend on other rows",
    ),
    "training that shows its statistics": (
        [node("BatchNormalization", "x scale mean mean scale", "y m")],
        r"2 outputs, as in training",
    ),
}  # fmt: skip


def test_nodes_in_another_order_are_the_same_network():
    """As onnxruntime's own converter to float16 writes them."""
    nodes = [GEMM, node("Relu", "s", "r"), node("Gemm", "r Q b", "t"), node("Relu", "t", "y")]

    assert from_onnx(model(*reversed(nodes))) == from_onnx(model(*nodes))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_network_cannot_represent_is_refused_by_node_and_operator(kind):
    nodes, message = REFUSED[kind]
    extra = {
        "E": np.ones((3, 1), np.float32), "F": np.ones((1, 1, 2), np.float32),
        "Z": np.array([1, 0], np.float32), "R": np.array([-1, 1]), "U": np.array([-1, -1]),
        "N": np.float32(0), "six": np.float32(6), "nan": np.float32(np.nan),
        "T": np.array(True), "I": np.ones((2, 3), np.int64), "S": np.array([["a"] * 3] * 2),
    }  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        from_onnx(model(*nodes, constants=extra))
    assert str(caught.value).endswith("the server needs no Network: serve the .onnx file as it is")


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (
            ["n", 3],
            TensorProto.INT64,
            r"input 'x': expected floats .*, got INT64 of shape \(n, 3\)",
        ),
        (["n", "m"], TensorProto.FLOAT, r"input 'x': expected floats .* of shape \(n, m\)"),
        (["n", 1, 3], TensorProto.FLOAT, r"got FLOAT of shape \(n, 1, 3\)"),
        (None, TensorProto.FLOAT, r"got FLOAT of shape \(\)"),
        (["n", 2**40], TensorProto.FLOAT, r"1099511627776 features, more than the file has bytes"),
    ],
)
def test_an_input_that_no_network_has_is_refused(shape, kind, message):
    theirs = model(*FORMS["Gemm, transB"])
    theirs.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))
    with pytest.raises(UnsupportedModelError, match=message):
        from_onnx(theirs)


def test_inputs_that_are_read_apart_are_refused():
    theirs = model(
        node("Gemm", "x W b", "s", transB=1), node("Add", "s u", "y"), inputs={"x": 3, "u": 2}
    )
    with pytest.raises(UnsupportedModelError, match=r"graph: 2 inputs \(x, u\) that are not j"):
        from_onnx(theirs)


def test_a_number_of_rows_that_the_file_fixes_is_no_limit():
    theirs = model(
        node("Reshape", "x fixed", "r"), node("Gemm", "r W b", "y", transB=1), batch=20,
        constants={"fixed": np.array([20, -1], np.int64)},
    )  # fmt: skip
    network = assert_same_answers(theirs)
    assert forward(network, np.zeros((7, 3)))["y"].shape == (7, 2)


def test_no_other_file_is_ever_read(tmp_path):
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    theirs = model(*FORMS["Gemm, transB"])
    tensor = theirs.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    (tmp_path / "m.onnx").write_bytes(theirs.SerializeToString())
    with pytest.raises(UnsupportedSourceError, match=r"initializer 'W': its values are in another"):
        from_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("dims", [[2, 4], [2**40, 2**40], [-2, -3], [-1], [6]])
def test_a_shape_that_its_values_do_not_have_allocates_nothing(dims):
    theirs = model(*FORMS["Gemm, transB"])
    tensor = next(each for each in theirs.graph.initializer if each.name == "W")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    with pytest.raises(UnsupportedModelError, match=r"'W'|weights of shape"):
        from_onnx(theirs)


def test_small_files_do_not_become_large_networks():
    doubled = [node("Concat", f"v{k} v{k}", f"v{k + 1}", axis=1) for k in range(40)]
    theirs = model(node("Gemm", "x W b", "v0", transB=1), *doubled, outputs=["v40"])
    with pytest.raises(UnsupportedModelError, match="values a row, more than the file has bytes"):
        from_onnx(theirs)
    outer = model(
        node("MatMul", "column row", "K"), node("MatMul", "x K", "y"),
        constants={k: np.ones(s, np.float32) for k, s in
                   {"column": (10_000, 1), "row": (1, 10_000)}.items()},
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="computed to be far larger than the file"):
        from_onnx(outer)
    wide = model(
        node("Relu", "x", "r"), node("MatMul", "r V", "y"), width=50_000,
        constants={"V": np.ones((50_000, 1), np.float32)},
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="takes an identity matrix of that size"):
        from_onnx(wide)


@pytest.mark.parametrize(("opset", "fix"), [(6, "version_converter"), (NEWEST + 1, "newer onnx")])
def test_opsets_that_are_not_known_are_refused(opset, fix):
    with pytest.raises(UnsupportedSourceError, match=f"opset {opset}: operators of .*{fix}"):
        from_onnx(model(*FORMS["Gemm, transB"], opset=opset))


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_training_of_an_old_opset_is_refused_and_its_inference_is_read(opset):
    reads = "x scale mean mean scale"
    plain = model(
        node("BatchNormalization", reads, "n"), node("Gemm", "n W b", "y", transB=1), opset=opset
    )
    # The reference evaluator has no inference of these opsets.
    assert_imported(from_onnx(plain), X, run(plain, X))
    training = model(
        node("BatchNormalization", reads, "n m v m2 v2"),
        node("Gemm", "n W b", "y", transB=1),
        opset=opset,
    )
    with pytest.raises(UnsupportedModelError, match="5 outputs, as in training"):
        from_onnx(training)


def test_an_output_that_does_not_depend_on_the_input_is_refused():
    theirs = model(GEMM, node("Relu", "s", "y"), node("Identity", "b", "k"), outputs=["y", "k"])
    with pytest.raises(UnsupportedModelError, match="output 'k': a constant: it does not depend"):
        from_onnx(theirs)
    assert from_onnx(theirs, outputs=["y"]).sizes == (3, 2)


def test_an_output_that_the_file_does_not_have_is_refused():
    with pytest.raises(NetworkError, match="outputs: expected some of the file's outputs y, got"):
        from_onnx(model(*FORMS["Gemm, transB"]), outputs=["z"])


def test_an_output_whose_name_the_graph_needs_takes_another_one():
    theirs = model(node("Gemm", "x W b", "W1", transB=1), node("Relu", "W1", "a2"),
                   outputs=["W1", "a2"])  # fmt: skip
    with pytest.raises(NetworkError, match="output 'W1': expected a name of its own"):
        from_onnx(theirs)
    network = from_onnx(theirs, outputs={"a2": "a2", "W1": "sums"})
    assert network.outputs == (Output("a2", "L2"), Output("sums", "L2", "z"))


def test_a_path_bytes_and_a_message_are_read_alike(tmp_path):
    theirs = model(*FORMS["every activation"])
    path = tmp_path / "m.onnx"
    path.write_bytes(theirs.SerializeToString())
    assert from_onnx(path) == from_onnx(path.read_bytes()) == from_onnx(theirs)


def test_parameters_that_no_network_has_are_refused():
    with pytest.raises(NetworkError, match=r"layer 'L2': expected finite W, got nan"):
        from_onnx(model(*FORMS["Gemm, transB"], constants={"W": W * np.nan}))
