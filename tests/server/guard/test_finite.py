"""NaN and infinities: allowed where they are what a graph means, refused where they are weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from support.onnx_files import build, linear, save, tensor

from forwardpass.proto import metadata
from forwardpass.server.engine.model import Model
from forwardpass.server.guard import GuardError, Limits, check_file

INF, NAN = np.float32(np.inf), np.float32(np.nan)
node = helper.make_node
Load = Callable[..., Model]


def of(
    *nodes: NodeProto, constants: Mapping[str, NDArray[Any] | np.generic] | None = None
) -> ModelProto:
    """x FP32[n, 3] -> y FP32[n, 3] by some nodes."""
    model = build(
        nodes,
        [tensor("x", "FP32", ["n", 3])],
        [tensor("y", "FP32", ["n", 3])],
        constants=constants,
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 5))
    return model


def check(model: ModelProto, folder: Path, *, general: bool = True) -> None:
    path = save(model, folder / "model.onnx")
    check_file(path, root=folder, limits=Limits(general=general))


MASK = np.array([0, -np.inf, 0], np.float32)

ALLOWED = {
    "a mask before a softmax": of(
        node("Add", ["x", "mask"], ["s"]), node("Softmax", ["s"], ["y"]), constants={"mask": MASK}
    ),
    "a Clip without an upper bound": of(
        node("Clip", ["x", "low", "high"], ["y"]), constants={"low": np.float32(0), "high": INF}
    ),
    "a branch of Where": of(
        node("Greater", ["x", "zero"], ["more"]),
        node("Where", ["more", "x", "least"], ["y"]),
        constants={"zero": np.float32(0), "least": -INF},
    ),
    "what Equal compares with": of(
        node("Equal", ["x", "inf"], ["is"]),
        node("Where", ["is", "zero", "x"], ["y"]),
        constants={"zero": np.float32(0), "inf": INF},
    ),
    "a Constant of a float": of(
        node("Constant", [], ["least"], value_float=float("-inf")),
        node("Max", ["x", "least"], ["y"]),
    ),
    "a Constant of floats": of(
        node("Constant", [], ["mask"], value_floats=[0.0, float("-inf"), 0.0]),
        node("Add", ["x", "mask"], ["y"]),
    ),
    "a mask of scores that are products of rows": of(
        node("Transpose", ["x"], ["turned"]),
        node("MatMul", ["x", "turned"], ["scores"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["attention"]),
        node("MatMul", ["attention", "x"], ["y"]),
        constants={"mask": -INF},
    ),
    "what missing numbers become": of(
        node("Greater", ["x", "zero"], ["there"]),
        node("Where", ["there", "x", "missing"], ["y"]),
        constants={"zero": np.float32(0), "missing": NAN},
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_constant_that_is_no_weight_may_be_infinite_and_answers_as_onnxruntime_does(
    name: str, load: Load, tmp_path: Path
) -> None:
    import onnxruntime

    model = ALLOWED[name]
    x = np.array([[1, np.inf, -3], [0, 5, 6]], np.float32)
    served = load(model, tmp_path)
    theirs = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )

    (y,) = served.session.run({"x": x}, ["y"])

    assert y.tobytes() == theirs.run(["y"], {"x": x})[0].tobytes()


def weight(value: np.float32) -> NDArray[np.float32]:
    array = np.eye(3, dtype=np.float32)
    array[1, 2] = value
    return array


def product(*before: NodeProto, name: str = "w") -> ModelProto:
    return of(*before, node("MatMul", ["x", name], ["y"]), constants={"w": weight(INF)})


def inside(graph: GraphProto, *nodes: NodeProto) -> ModelProto:
    """An If whose branches are both a graph, after some nodes."""
    return of(
        *nodes,
        node("If", ["yes"], ["y"], then_branch=graph, else_branch=graph),
        constants={"yes": np.array(True), "w": weight(NAN)},
    )


def branch(*nodes: NodeProto, constants: Sequence[TensorProto] = ()) -> GraphProto:
    return helper.make_graph(nodes, "b", [], [tensor("z", "FP32", ["n", 3])], constants)


def by_function(argument: str) -> ModelProto:
    """A product within a function, of its second input."""
    model = of(node("f", ["x", argument], ["y"], domain="mine"), constants={"w": weight(INF)})
    model.opset_import.append(helper.make_opsetid("mine", 1))
    body = [node("Identity", ["b"], ["c"]), node("MatMul", ["a", "c"], ["d"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "f", ["a", "b"], ["d"], body, opsets))
    return model


def given_by_function() -> ModelProto:
    """A function that gives what is a weight outside of it."""
    model = of(node("f", [], ["w"], domain="mine"), node("MatMul", ["x", "w"], ["y"]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    value = onnx.numpy_helper.from_array(weight(NAN))
    body = [node("Constant", [], ["c"], value=value)]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "f", [], ["c"], body, opsets))
    return model


def scaled(**attributes: Any) -> ModelProto:
    return of(node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", **attributes))


BIAS = np.array([0, np.inf, 0], np.float32)

REFUSED = {
    "of MatMul": product(),
    "of MatMul, a NaN": of(node("MatMul", ["x", "w"], ["y"]), constants={"w": weight(NAN)}),
    "of MatMul, in front": of(
        node("Transpose", ["x"], ["t"]),
        node("MatMul", ["w", "t"], ["p"]),
        node("Transpose", ["p"], ["y"]),
        constants={"w": weight(INF)},
    ),
    "of Gemm": of(node("Gemm", ["x", "w"], ["y"]), constants={"w": weight(-INF)}),
    "a bias of Gemm": of(
        node("Gemm", ["x", "w", "b"], ["y"]),
        constants={"w": np.eye(3, dtype=np.float32), "b": BIAS},
    ),
    "a bias after MatMul": of(
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["b", "p"], ["y"]),
        constants={"w": np.eye(3, dtype=np.float32), "b": BIAS},
    ),
    "a bias after MatMul and Cast": of(
        node("MatMul", ["x", "w"], ["p"]),
        node("Cast", ["p"], ["q"], to=TensorProto.FLOAT),
        node("Add", ["q", "b"], ["y"]),
        constants={"w": np.eye(3, dtype=np.float32), "b": BIAS},
    ),
    "of PRelu": of(node("PRelu", ["x", "s"], ["y"]), constants={"s": BIAS}),
    "of a normalization": of(node("LayerNormalization", ["x", "g"], ["y"]), constants={"g": BIAS}),
    "a scale": of(
        node("QuantizeLinear", ["x", "s"], ["q"]),
        node("DequantizeLinear", ["q", "s"], ["y"]),
        constants={"s": INF},
    ),
    "arithmetic with a NaN": of(node("Sub", ["x", "b"], ["y"]), constants={"b": NAN}),
    "behind Identity": product(node("Identity", ["w"], ["v"]), name="v"),
    "behind Transpose": product(node("Transpose", ["w"], ["v"]), name="v"),
    "behind Cast": product(node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), name="v"),
    "behind Squeeze and Unsqueeze": of(
        node("Unsqueeze", ["w", "first"], ["u"]),
        node("Squeeze", ["u", "first"], ["v"]),
        node("MatMul", ["x", "v"], ["y"]),
        constants={"w": weight(INF), "first": np.array([0])},
    ),
    "behind Reshape": of(
        node("Reshape", ["w", "shape"], ["v"]),
        node("MatMul", ["x", "v"], ["y"]),
        constants={"w": weight(INF).ravel(), "shape": np.array([3, 3])},
    ),
    "a Constant of a tensor": of(
        node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight(INF))),
        node("MatMul", ["x", "w"], ["y"]),
    ),
    "a Constant of floats": of(
        node("Constant", [], ["b"], value_floats=[float("inf")] * 3),
        node("Gemm", ["x", "w", "b"], ["y"]),
        constants={"w": np.eye(3, dtype=np.float32)},
    ),
    "within a branch": inside(
        branch(
            node("MatMul", ["x", "v"], ["z"]),
            constants=[onnx.numpy_helper.from_array(weight(INF), "v")],
        )
    ),
    "from around a branch": inside(branch(node("MatMul", ["x", "w"], ["z"]))),
    "within a function": by_function("w"),
    "given by a function": given_by_function(),
    "of a Scaler": scaled(offset=[0.0], scale=[float("inf")]),
    "of a Scaler, a NaN": scaled(offset=[float("nan")] * 3, scale=[1.0] * 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_weight_is_finite(name: str, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"expected finite .*, got -?(inf|nan)"):
        check(REFUSED[name], tmp_path)


@pytest.mark.parametrize("name", ["of MatMul", "a bias of Gemm", "of a Scaler"])
def test_a_weight_is_finite_in_a_plain_network_too(name: str, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="expected finite"):
        check(REFUSED[name], tmp_path, general=False)


def test_the_reason_names_the_constant_what_was_found_and_its_reader(tmp_path: Path) -> None:
    with pytest.raises(GuardError) as refused:
        check(product(node("Transpose", ["w"], ["v"], name="turn"), name="v"), tmp_path)

    assert str(refused.value) == (
        "tensor 'w': expected finite weights, got inf among its 9, read by node of 'y' (MatMul); "
        "train the network again, or export it from a good checkpoint"
    )


def test_an_argument_that_is_finite_may_stand_beside_one_that_is_not(tmp_path: Path) -> None:
    model = by_function("good")
    good = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "good")
    model.graph.initializer.append(good)

    check(model, tmp_path)


def test_in_a_file_of_our_contract_every_constant_is_a_weight(tmp_path: Path) -> None:
    model = linear()
    mask = onnx.numpy_helper.from_array(MASK, "mask")
    model.graph.initializer.append(mask)
    check(model, tmp_path)
    model.metadata_props.add(key=metadata.FORMAT, value="1")

    with pytest.raises(GuardError, match="tensor 'mask': expected finite weights, got -inf among"):
        check(model, tmp_path)


@pytest.mark.parametrize(("bits", "found"), [(0x7F80, "inf"), (0xFF80, "-inf"), (0x7FC0, "nan")])
def test_bfloat16_is_read_too(bits: int, found: str, tmp_path: Path) -> None:
    w = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[3, 3])
    w.raw_data = np.array([*[0] * 8, bits], np.uint16).tobytes()
    model = of(node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), node("MatMul", ["x", "v"], ["y"]))
    model.graph.initializer.append(w)

    with pytest.raises(GuardError, match=f"finite weights, got {found} among its 9"):
        check(model, tmp_path)


def test_data_beside_the_model_is_read_once(tmp_path: Path) -> None:
    """Reading it twice would count twice against what a model may have."""
    model = of(node("Relu", ["x"], ["y"]), constants={"mask": np.full(1000, -INF)})
    mask = model.graph.initializer[0]
    (tmp_path / "mask.bin").write_bytes(mask.raw_data)
    mask.ClearField("raw_data")
    mask.data_location = TensorProto.EXTERNAL
    mask.external_data.add(key="location", value="mask.bin")
    path = save(model, tmp_path / "model.onnx")

    check_file(path, root=tmp_path, limits=Limits(max_file_bytes=path.stat().st_size + 4000))
