"""What holds for every file: names that resolve, and no part that may grow without bound."""

from collections.abc import Iterator, Sequence
from itertools import islice

import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from forwardpass.server.guard.errors import ALLOW_GENERAL, GuardError, node_part
from forwardpass.server.guard.files import ExternalData
from forwardpass.server.guard.limits import Limits
from forwardpass.server.guard.tensors import check_sizes, check_tensor

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})

_ANY_SIZE = frozenset(
    """
    AffineGrid Bernoulli BlackmanWindow CenterCropPad Col2Im ConstantOfShape DFT Expand
    HammingWindow HannWindow ImageDecoder MaxUnpool MelWeightMatrix Multinomial OneHot Pad
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Resize STFT Tile Upsample
    """.split()  # noqa: SIM905 - a list to read
)
"""Operators whose results are as large as their attributes or their inputs' values say, or
random: a proof by samples tells nothing of them."""

_ALLOW = f"export the network without it, or {ALLOW_GENERAL}"


def check_structure(model: ModelProto, external: ExternalData, limits: Limits) -> None:
    """Raise GuardError for a model that must not be served.

    Nothing of the model is computed, and no tensor of it is allocated.
    """
    nodes = list(islice(_nodes(model.graph, model.functions), limits.max_nodes + 1))
    if len(nodes) > limits.max_nodes:
        raise GuardError(
            "graph",
            expected=f"at most {limits.max_nodes} nodes",
            got="more",
            fix="serve a smaller graph, or set max_nodes in the Limits of the server",
        )
    _check_messages(model, external)
    _check_versions(model)
    _check_signature(model.graph, limits)
    if not limits.general:
        _check_bounded(model, nodes)
    _check_names(model.graph, ())


def _check_messages(message: Message, external: ExternalData, part: str = "model") -> None:
    """Prove every tensor of a message, wherever it stands, and that its texts are texts."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            # protobuf hands out what is no text as bytes.
            for text in (value,) if isinstance(value, str | bytes) else value:
                if not isinstance(text, str):
                    raise _not_text(part, field.name)
        elif field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                if isinstance(inner, TensorProto):
                    if not isinstance(inner.name, str):
                        raise _not_text(part, "a tensor's name")
                    check_tensor(_tensor_part(part, inner), inner, external)
                elif isinstance(inner, NodeProto):
                    _check_messages(inner, external, node_part(inner))
                else:
                    _check_messages(inner, external, part)


def _tensor_part(part: str, tensor: TensorProto) -> str:
    return f"tensor {tensor.name!r}" if tensor.name else f"{part}, tensor"


def _not_text(part: str, field: str) -> GuardError:
    return GuardError(
        part, expected=f"UTF-8 in {field}", got="other bytes", fix="export the model again"
    )


def _check_versions(model: ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise GuardError(
                "opset_import",
                expected=f"an opset of 1..{newest}",
                got=str(opset.version),
                fix="export for another opset (forwardpass writes 17), or upgrade the server",
            )


def _check_signature(graph: GraphProto, limits: Limits) -> None:
    for role, values in (("inputs", graph.input), ("outputs", graph.output)):
        if len(values) > limits.max_tensors + len(graph.initializer):
            raise GuardError(
                "graph",
                expected=f"at most {limits.max_tensors} {role}",
                got=str(len(values)),
                fix="put columns together, or set max_tensors in the Limits of the server",
            )
        for value in values:
            dims = value.type.tensor_type.shape.dim
            sizes = [dim.dim_value for dim in dims if dim.HasField("dim_value")]
            check_sizes(f"{role[:-1]} {value.name!r}", sizes)


def _nodes(graph: GraphProto, functions: Sequence[FunctionProto] = ()) -> Iterator[NodeProto]:
    """Give every node of a graph, those of its subgraphs and of the functions included."""
    waiting = [graph.node, *(function.node for function in functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting.extend(inner.node for inner in _subgraphs(attribute))


def _subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    own = [attribute.g] if attribute.HasField("g") else []
    return [*own, *attribute.graphs]


def _check_bounded(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    if model.functions:
        raise GuardError(
            f"function {model.functions[0].name!r}",
            expected="nodes of ONNX's own operators",
            got="a function",
            fix=f"inline it (onnx.inliner), or {ALLOW_GENERAL}",
        )
    if model.graph.sparse_initializer:
        raise GuardError(
            "graph",
            expected="dense constants",
            got="a sparse one, which takes any memory once it is dense",
            fix=_ALLOW,
        )
    for node in nodes:
        if any(_subgraphs(attribute) for attribute in node.attribute):
            raise GuardError(
                node_part(node),
                expected="a graph without loops and branches",
                got="an operator with a subgraph",
                fix=_ALLOW,
            )
        if node.domain not in _DOMAINS:
            raise GuardError(
                node_part(node),
                expected="an operator of ONNX",
                got=f"one of the domain {node.domain!r}",
                fix=_ALLOW,
            )
        if node.op_type in _ANY_SIZE:
            raise GuardError(
                node_part(node),
                expected="operators whose results are bounded by the rows sent",
                got="one that may give a tensor of any size, or a random one",
                fix=_ALLOW,
            )


def _check_names(graph: GraphProto, outer: tuple[set[str], ...]) -> None:
    """Prove that each tensor is given once, and before it is read.

    outer: the names that the graphs around a subgraph have given so far.
    """
    constants = [tensor.name for tensor in graph.initializer]
    constants += [sparse.values.name for sparse in graph.sparse_initializer]
    inputs = [value.name for value in graph.input]
    # Up to IR version 3 a constant is listed among the inputs too.
    _check_once("initializer", constants)
    _check_once("input", inputs)
    given = {*constants, *inputs}
    scopes = (given, *outer)
    for node in graph.node:
        part = node_part(node)
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                raise GuardError(
                    part,
                    expected="inputs that the nodes before it, or the graph, give",
                    got=repr(name),
                    fix="export the model again, its nodes in the order of computation",
                )
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                _check_names(inner, scopes)
        for name in node.output:
            if name and name in given:
                raise GuardError(
                    part,
                    expected="outputs with names of their own",
                    got=f"{name!r}, which is given already",
                    fix="export the model again",
                )
            given.add(name)
    outputs = [value.name for value in graph.output]
    _check_once("output", outputs)
    for name in outputs:
        if not any(name in scope for scope in scopes):
            raise GuardError(
                f"output {name!r}",
                expected="a tensor of the graph",
                got="one that no node gives",
                fix="export the model again",
            )


def _check_once(role: str, names: Sequence[str]) -> None:
    seen = set()
    for name in names:
        if not name or name in seen:
            raise GuardError(
                f"{role} {name!r}",
                expected="a name of its own",
                got="it twice" if name else "none",
                fix="export the model again",
            )
        seen.add(name)
