"""The check that no part of a model is in training mode: an answer depends on its row alone.

A normalization in training uses the statistics of the rows of one run, and keeps them: one call
of no rows can spoil it for good. Dropout in training and random operators answer the same row
differently each time.
"""

from collections.abc import Sequence

from forwardpass.server.guard.canonical import all_graphs
from forwardpass.server.guard.errors import GuardError, node_part
from forwardpass.server.onnx_messages import AttributeProto, ModelProto, NodeProto, TensorProto

_NORMALIZATIONS = frozenset({"BatchNormalization", "BatchNormInternal"})
_DROPOUTS = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}
"""Operator -> the index of the input that says whether it trains; left out, it does not."""
_RANDOM = frozenset(
    """
    Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike Sampling
    """.split()  # noqa: SIM905 - a list to read
)

_EVALUATE = "export the model for inference (PyTorch: model.eval(), then torch.onnx.export)"


def check_inference(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Raise GuardError for a node that trains or draws random numbers.

    nodes: all of the model, those of subgraphs and functions included.
    """
    false: set[str] | None = None
    for node in nodes:
        if node.op_type in _RANDOM:
            raise GuardError(
                node_part(node),
                expected="answers that depend on their row alone",
                got="random ones",
                fix="export the model without it, or with its numbers as an input",
            )
        if node.op_type in _NORMALIZATIONS and _has_statistics(node):
            raise GuardError(
                node_part(node),
                expected="a normalization by constants",
                got="one by the rows of a run (training_mode, or more than one output)",
                fix=_EVALUATE,
            )
        place = _DROPOUTS.get(node.op_type, len(node.input))
        if place < len(node.input) and node.input[place]:
            false = _constantly_false(model, nodes) if false is None else false
            if node.input[place] not in false:
                raise GuardError(
                    node_part(node),
                    expected="no training_mode, or one that is a constant and false",
                    got=f"{node.input[place]!r}, by which its answers may be random",
                    fix=_EVALUATE,
                )


def _has_statistics(node: NodeProto) -> bool:
    if len([name for name in node.output if name]) > 1:
        return True
    # In a function, the attribute may refer to any value.
    return any(
        attribute.name == "training_mode" and (attribute.i != 0 or attribute.ref_attr_name)
        for attribute in node.attribute
    )


def _constantly_false(model: ModelProto, nodes: Sequence[NodeProto]) -> set[str]:
    """Return the names of the constants that are false, anywhere in the model."""
    false: set[str] = set()
    other = {name for function in model.functions for name in function.input}
    for graph in all_graphs(model):
        constants = {tensor.name for tensor in graph.initializer}
        for tensor in graph.initializer:
            (false if _is_false(tensor) else other).add(tensor.name)
        # What a caller cannot send is a constant, though it is listed as an input.
        other.update(value.name for value in graph.input if value.name not in constants)
    for node in nodes:
        values = [each.t for each in node.attribute if each.type == AttributeProto.TENSOR]
        is_false = node.op_type == "Constant" and all(map(_is_false, values)) and len(values) == 1
        (false if is_false else other).update(node.output)
    return false - other


def _is_false(tensor: TensorProto) -> bool:
    return (
        tensor.data_type == TensorProto.BOOL
        # Nor are the bytes elsewhere.
        and not tensor.external_data
        and not any(tensor.raw_data)
        and not any(tensor.int32_data)
    )
