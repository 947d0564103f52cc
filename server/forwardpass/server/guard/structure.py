"""The checks of every file: names that resolve, and no part that may grow without bound."""

from collections.abc import Iterator, Sequence
from itertools import islice

from google.protobuf.message import Message

from forwardpass.proto import metadata
from forwardpass.server.guard.canonical import canonicalize, node_graphs
from forwardpass.server.guard.errors import ALLOW_GENERAL, GuardError, node_part
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.guard.finite import Unfinite, check_weights, weights_error
from forwardpass.server.guard.inference import check_inference
from forwardpass.server.guard.limits import Limits
from forwardpass.server.guard.tensors import check_sizes, check_tensor
from forwardpass.server.onnx_messages import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
)

_KNOWN_OPSET = 24
"""An opset that every onnx knows that may be installed."""
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})

_ANY_SIZE = frozenset(
    """
    AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape DFT Expand HammingWindow
    HannWindow ImageDecoder MaxUnpool MelWeightMatrix OneHot Pad Range Resize STFT Tile Upsample
    """.split()  # noqa: SIM905 - a list to read
)
"""Operators whose results have a size that attributes or the values of inputs choose: a run of
samples proves nothing about other values."""

_ALLOW = f"export the network without it, or {ALLOW_GENERAL}"


def check_structure(
    model: ModelProto,
    tensors: Sequence[tuple[str, TensorProto]],
    content: ModelBytes,
    limits: Limits,
) -> None:
    """Bring a model into canonical form, or raise GuardError for one that must not be served.

    Nothing of the model is computed, and no tensor of it is allocated. tensors: All of
    `all_tensors`.
    """
    nodes = list(islice(_nodes(model.graph, model.functions), limits.max_nodes + 1))
    if len(nodes) > limits.max_nodes:
        raise GuardError(
            "graph",
            expected=f"at most {limits.max_nodes} nodes",
            got="more",
            fix="serve a smaller graph, or set max_nodes in the Limits of the server",
        )
    canonicalize(model)
    unfinite = [
        Unfinite(tensor, part, found)
        for part, tensor in tensors
        if (found := check_tensor(part, tensor, content))
    ]
    _check_versions(model)
    _check_signature(model.graph, limits)
    check_inference(model, nodes)
    if not limits.general:
        _check_bounded(model, nodes)
    _check_names(model.graph, ())
    if unfinite and any(entry.key == metadata.FORMAT for entry in model.metadata_props):
        # A file of our contract has no other constants than weights, and the NaN of what has no
        # answer, which a Where chooses.
        chosen = {name for node in nodes if node.op_type == "Where" for name in node.input}
        chosen -= {name for node in nodes if node.op_type != "Where" for name in node.input}
        for each in unfinite:
            if each.tensor.name not in chosen or not each.found.startswith("nan"):
                raise weights_error(each.part, each.found)
    check_weights(model, unfinite)


def all_tensors(message: Message, part: str = "model") -> Iterator[tuple[str, TensorProto]]:
    """Give every tensor of a message, wherever it stands, and what to call it.

    Raises GuardError for a text of the message that is none.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            # protobuf returns a string that is not UTF-8 as bytes.
            for text in (value,) if isinstance(value, str | bytes) else value:
                if not isinstance(text, str):
                    raise _not_text(part, field.name)
        elif field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                if isinstance(inner, TensorProto):
                    if not isinstance(inner.name, str):
                        raise _not_text(part, "a tensor's name")
                    yield _tensor_part(part, inner), inner
                elif isinstance(inner, NodeProto):
                    yield from all_tensors(inner, node_part(inner))
                else:
                    yield from all_tensors(inner, part)


def _tensor_part(part: str, tensor: TensorProto) -> str:
    return f"tensor {tensor.name!r}" if tensor.name else f"{part}, tensor"


def _not_text(part: str, field: str) -> GuardError:
    return GuardError(
        part, expected=f"UTF-8 in {field}", got="other bytes", fix="export the model again"
    )


def _check_versions(model: ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or 1 <= opset.version <= _KNOWN_OPSET:
            continue
        # Imported here, for it takes long.
        from onnx import defs

        newest = defs.onnx_opset_version()
        if not 1 <= opset.version <= newest:
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
    """Yield every node of a graph, those of its subgraphs and of the functions included."""
    waiting = [graph.node, *(function.node for function in functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting.extend(inner.node for inner in node_graphs(node))


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
            got="a sparse one, which may take any amount of memory when it is made dense",
            fix=_ALLOW,
        )
    for node in nodes:
        if node_graphs(node):
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
                got="one that may return a tensor of any size",
                fix=_ALLOW,
            )


def _check_names(graph: GraphProto, outer: tuple[set[str], ...]) -> None:
    """Check that each tensor is defined once, and before it is read; the graph is canonical.

    outer: the names that the graphs around a subgraph have defined so far.
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
                    expected="inputs that the graph or an earlier node defines",
                    got=repr(name),
                    fix="export the model again, its nodes in the order of computation",
                )
        for inner in node_graphs(node):
            _check_names(inner, scopes)
        for name in node.output:
            if name and name in given:
                raise GuardError(
                    part,
                    expected="outputs with unique names",
                    got=f"{name!r}, which is already defined",
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
                got="one that no node computes",
                fix="export the model again",
            )


def _check_once(role: str, names: Sequence[str]) -> None:
    seen = set()
    for name in names:
        if not name or name in seen:
            raise GuardError(
                f"{role} {name!r}",
                expected="a unique name",
                got="the same name twice" if name else "none",
                fix="export the model again",
            )
        seen.add(name)
