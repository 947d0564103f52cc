"""Divisions that a caller's numbers could make a crash, in files that are not plain."""

import onnx
from onnx import ModelProto

from forwardpass.server.guard.errors import ALLOW_GENERAL, GuardError, node_part
from forwardpass.server.guard.rules import Tensor, constant, may_crash


def check_divisions(model: ModelProto) -> None:
    """Raise GuardError for a division of integers by what may be -1.

    The data types come from onnx's shape inference, C++ that goes by what the file says: for a
    process that may crash, and not for the server's own.
    """
    divisions = [node for node in model.graph.node if node.op_type == "Div"]
    if not divisions:
        return
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {
        value.name: Tensor(value.type.tensor_type.elem_type, ())
        for value in [*graph.input, *graph.value_info, *graph.output]
    } | {tensor.name: constant(tensor) for tensor in graph.initializer}
    for node in divisions:
        if any(name in known and may_crash(known[name]) for name in node.input[1:]):
            raise GuardError(
                node_part(node),
                expected="a division of floats, or by constants other than -1",
                got="one of integers, by which a caller could stop the server",
                fix=f"cast to float first, or {ALLOW_GENERAL}",
            )
