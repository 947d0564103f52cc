"""Divisions that could crash at a caller's numbers, in files that are not plain."""

from forwardpass.server.guard.errors import ALLOW_GENERAL, GuardError, node_part
from forwardpass.server.guard.rules import Tensor, constant, may_crash
from forwardpass.server.onnx_messages import ModelProto


def check_divisions(model: ModelProto) -> None:
    """Raise GuardError for a division of integers by what may be -1.

    The data types come from onnx's shape inference, C++ code that trusts the file: call this in a
    process that may crash, not in the server's own.
    """
    divisions = [node for node in model.graph.node if node.op_type == "Div"]
    if not divisions:
        return
    # Imported here: files that are plain have nothing to do with it.
    import onnx

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
