"""A repository as Triton's users have one: ONNX files, each with its config.pbtxt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from support import onnx_files

WIDTH = 16


def sum_and_difference(datatype: str) -> ModelProto:
    """INPUT0, INPUT1 [n, 16] -> OUTPUT0, their sum, OUTPUT1, their difference; BYTES as digits.

    Computed in INT32, whatever the datatype.
    """
    element = onnx_files.tensor("t", datatype, []).type.tensor_type.elem_type
    nodes = [
        helper.make_node("Cast", ["INPUT0"], ["a"], to=TensorProto.INT32),
        helper.make_node("Cast", ["INPUT1"], ["b"], to=TensorProto.INT32),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
        helper.make_node("Cast", ["sum"], ["OUTPUT0"], to=element),
        helper.make_node("Cast", ["difference"], ["OUTPUT1"], to=element),
    ]
    return onnx_files.build(
        nodes,
        [onnx_files.tensor(f"INPUT{i}", datatype, ["n", WIDTH]) for i in range(2)],
        [onnx_files.tensor(f"OUTPUT{i}", datatype, ["n", WIDTH]) for i in range(2)],
    )


def identity() -> ModelProto:
    """INPUT0 -> OUTPUT0, BYTES [n, m]."""
    return onnx_files.build(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        [onnx_files.tensor("INPUT0", "BYTES", ["n", "m"])],
        [onnx_files.tensor("OUTPUT0", "BYTES", ["n", "m"])],
    )


def flattened_image() -> ModelProto:
    """x FP32 [n, 3, 2, 2] -> scores FP32 [n, 12, 1, 1], the same elements."""
    return onnx_files.build(
        [helper.make_node("Reshape", ["x", "shape"], ["scores"])],
        [onnx_files.tensor("x", "FP32", ["n", 3, 2, 2])],
        [onnx_files.tensor("scores", "FP32", ["n", 12, 1, 1])],
        constants={"shape": np.array([-1, 12, 1, 1])},
    )


def config(name: str, tensors: Sequence[str], data_type: str, *, max_rows: int = 8) -> str:
    """Write the configuration of a model all of whose tensors are alike."""
    width = -1 if name == "simple_identity" else WIDTH
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {max_rows}"]
    for tensor in tensors:
        kind = "input" if tensor.startswith("INPUT") else "output"
        lines.append(f'{kind} [ {{ name: "{tensor}" data_type: {data_type} dims: [ {width} ] }} ]')
    return "\n".join(lines) + "\n"


def write_repository(root: Path) -> Path:
    """Write what the public examples of tritonclient call, and four more: eight models."""
    both = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    for name, model, tensors, data_type in (
        ("simple", sum_and_difference("INT32"), both, "TYPE_INT32"),
        ("simple_int8", sum_and_difference("INT8"), both, "TYPE_INT8"),
        ("simple_string", sum_and_difference("BYTES"), both, "TYPE_STRING"),
        ("simple_identity", identity(), ("INPUT0", "OUTPUT0"), "TYPE_STRING"),
    ):
        onnx_files.save(model, root / name / "1" / "model.onnx")
        (root / name / "config.pbtxt").write_text(config(name, tensors, data_type))
    for name in ("more_1", "more_2", "more_3", "more_4"):
        onnx_files.save(onnx_files.linear(), root / name / "1" / "model.onnx")
    return root
