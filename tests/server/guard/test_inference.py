"""Files in training mode are refused, in whatever way they say it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from support.onnx_files import build, save, tensor

from forwardpass.server.guard import GuardError, Limits, check_file

node = helper.make_node
ONE = np.ones(3, np.float32)
X, Y = tensor("x", "FP32", ["n", 3]), tensor("y", "FP32", ["n", 3])
FLAG = tensor("t", "BOOL", [])


def of(
    *nodes: NodeProto, opset: int = 17, inputs: Sequence[ValueInfoProto] = (X,), **constants: Any
) -> ModelProto:
    model = build(nodes, inputs, [Y], constants=constants)
    model.opset_import[0].version = opset
    return model


def normalized(*outputs: str, opset: int = 17, **attributes: Any) -> ModelProto:
    inputs = ["x", "scale", "bias", "mean", "variance"]
    constants: dict[str, Any] = dict.fromkeys(inputs[1:], ONE)
    return of(
        node("BatchNormalization", inputs, outputs, **attributes),
        opset=opset,
        **constants,
    )


def dropout(
    *before: NodeProto, inputs: Sequence[ValueInfoProto] = (X,), **constants: Any
) -> ModelProto:
    return of(
        *before,
        node("Dropout", ["x", "ratio", "t"], ["y"]),
        inputs=inputs,
        ratio=np.float32(0.5),
        **constants,
    )


def in_branch(inner: ModelProto) -> ModelProto:
    graph = inner.graph
    branch = helper.make_graph(graph.node, "b", [], [tensor("y", "FP32", ["n", 3])])
    model = of(node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch), yes=np.array(1))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.initializer.extend(graph.initializer)
    model.graph.output[0].name = "z"
    return model


def in_function(inner: ModelProto) -> ModelProto:
    opsets = [helper.make_opsetid("", 17)]
    names = [each.name for each in inner.graph.initializer]
    function = helper.make_function("mine", "f", ["x", *names], ["y"], inner.graph.node, opsets)
    model = of(node("f", ["x", *names], ["y"], domain="mine"))
    model.graph.initializer.extend(inner.graph.initializer)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(function)
    return model


def by_reference() -> ModelProto:
    """A function whose normalization trains if its caller says so."""
    model = in_function(normalized("y"))
    mode = AttributeProto(name="training_mode", ref_attr_name="mode", type=AttributeProto.INT)
    model.functions[0].node[0].attribute.append(mode)
    model.functions[0].attribute.append("mode")
    model.graph.node[0].attribute.append(helper.make_attribute("mode", 1))
    return model


TRAINING = normalized("y", "running_mean", "running_variance", training_mode=1)

REFUSED = {
    "a normalization": TRAINING,
    "a normalization of one output": normalized("y", training_mode=1),
    "a normalization of five outputs": normalized("y", "m", "v", "sm", "sv", opset=8),
    "a normalization of five outputs, told otherwise": normalized(
        "y", "m", "v", "sm", "sv", opset=9
    ),
    "a normalization in a branch": in_branch(TRAINING),
    "a normalization in a function": in_function(TRAINING),
    "a normalization by a function's attribute": by_reference(),
    "a dropout by a constant": dropout(t=np.array(True)),
    "a dropout by a Constant": dropout(
        node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True)))
    ),
    "a dropout by an input": dropout(inputs=(X, FLAG)),
    "a dropout by what is computed": dropout(node("Not", ["no"], ["t"]), no=np.array(False)),
    "a dropout in a branch": in_branch(dropout(t=np.array(True))),
    "a dropout in a function": in_function(dropout(t=np.array(True))),
    # The formal name says nothing of what a call gives.
    "a dropout in a function, by an argument": in_function(dropout(t=np.array(False))),
    "a random tensor": of(node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])),
    "a random choice": of(node("Bernoulli", ["x"], ["y"])),
}


@pytest.mark.parametrize("general", [False, True], ids=["", "general"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_other_rows_or_on_chance_is_refused(
    name: str, general: bool, tmp_path: Path
) -> None:
    path = save(REFUSED[name], tmp_path / "model.onnx")

    with pytest.raises(GuardError, match=r"for inference|without it") as refused:
        check_file(path, root=tmp_path, limits=Limits(general=general))

    # What is refused with general models too shall not be advised.
    assert "--general-models" not in str(refused.value)


ALLOWED = {
    "a normalization": normalized("y"),
    "a normalization that says so": normalized("y", training_mode=0),
    "a normalization of an old opset": normalized("y", opset=8),
    "a normalization with outputs left out": normalized("y", "", "", "", "", opset=8),
    "a dropout": of(node("Dropout", ["x"], ["y"])),
    "a dropout with a mask": of(node("Dropout", ["x"], ["y", "mask"])),
    "a dropout of an old opset": of(node("Dropout", ["x"], ["y"], ratio=0.5), opset=10),
    "a dropout by a constant": dropout(t=np.array(False)),
    "a dropout by a Constant": dropout(
        node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(False)))
    ),
    "a dropout by a constant in int32_data": dropout(),
}
ALLOWED["a dropout by a constant in int32_data"].graph.initializer.append(
    helper.make_tensor("t", TensorProto.BOOL, [], [False])
)


@pytest.mark.parametrize("name", ALLOWED)
def test_the_same_operators_at_inference_pass(name: str, tmp_path: Path) -> None:
    path = save(ALLOWED[name], tmp_path / "model.onnx")

    check_file(path, root=tmp_path, limits=Limits())


def test_one_false_constant_does_not_stand_for_another_of_its_name(tmp_path: Path) -> None:
    model = in_branch(dropout(t=np.array(True)))
    for attribute in model.graph.node[0].attribute:
        attribute.g.initializer.append(numpy_helper.from_array(np.array(True), "t"))
    outer = next(each for each in model.graph.initializer if each.name == "t")
    outer.CopyFrom(numpy_helper.from_array(np.array(False), "t"))
    path = save(model, tmp_path / "model.onnx")

    with pytest.raises(GuardError, match="may be random"):
        check_file(path, root=tmp_path, limits=Limits(general=True))
