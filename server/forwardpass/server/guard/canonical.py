"""The canonical form of a graph, made before anything is proven of it.

onnxruntime accepts a model's nodes in any order (those of a subgraph only in order) and -1 for a
length that is not known; the checks that read a graph here accept neither.
The file's own bytes stay as they are.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from forwardpass.server.guard.errors import GuardError, node_part
from forwardpass.server.onnx_messages import GraphProto, ModelProto, NodeProto, TypeProto


def canonicalize(model: ModelProto) -> None:
    """Drop lengths of -1, and put the nodes of the graph into an order of computation.

    Nodes that are in order stay where they are. Takes time in proportion to the file.
    Raises GuardError for nodes that depend on one another in a cycle.
    """
    for graph in all_graphs(model):
        _drop_unknown_lengths(graph)
    _sort(model.graph)


def all_graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yield the graph of a model and its subgraphs, those in functions included."""
    waiting = [model.graph]
    for function in model.functions:
        waiting += (inner for node in function.node for inner in node_graphs(node))
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += (inner for node in graph.node for inner in node_graphs(node))


def node_graphs(node: NodeProto) -> list[GraphProto]:
    """Return the subgraphs of a node."""
    return [
        inner
        for attribute in node.attribute
        for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)
    ]


def _drop_unknown_lengths(graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for tensor in _tensors(value.type):
            for dim in tensor.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value == -1:
                    dim.ClearField("dim_value")


def _captured(graph: GraphProto) -> set[str]:
    """Return the names that a subgraph reads and does not define itself."""
    read = {value.name for value in graph.output}
    given = {tensor.name for tensor in graph.initializer}
    given.update(sparse.values.name for sparse in graph.sparse_initializer)
    given.update(value.name for value in graph.input)
    for node in graph.node:
        read.update(node.input)
        given.update(node.output)
        for inner in node_graphs(node):
            read |= _captured(inner)
    return read - given


def _sort(graph: GraphProto) -> None:
    """Sort nodes so that each comes after those that it reads; of several, the first is next."""
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            # A second one is refused where names are checked.
            makers.setdefault(name, index)
    waits_for = []
    for node in graph.node:
        names = set(node.input).union(*map(_captured, node_graphs(node)))
        waits_for.append({makers[name] for name in names if name in makers})
    readers: dict[int, list[int]] = {}
    for index, sources in enumerate(waits_for):
        for source in sources:
            readers.setdefault(source, []).append(index)
    missing = [len(sources) for sources in waits_for]
    free = [index for index, count in enumerate(missing) if not count]
    heapify(free)
    order = []
    while free:
        index = heappop(free)
        order.append(index)
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heappush(free, reader)
    if len(order) < len(missing):
        stuck = next(index for index, count in enumerate(missing) if count)
        raise GuardError(
            node_part(graph.node[stuck]),
            expected="nodes that can be computed one after the other",
            got="one in a cycle of nodes, or one that depends on a cycle",
            fix="export the model again",
        )
    if order != sorted(order):
        places = {index: place for place, index in enumerate(order)}
        wanted = iter([places[index] for index in range(len(order))])
        # `sort` asks for the key of each node once, in the order of the nodes.
        graph.node.sort(key=lambda _: next(wanted))


def _tensors(kind: TypeProto) -> Iterator[TypeProto.Tensor]:
    """Yield the tensor types inside a type."""
    while True:
        match kind.WhichOneof("value"):
            case "tensor_type":
                yield kind.tensor_type
            case "sequence_type":
                kind = kind.sequence_type.elem_type
                continue
            case "optional_type":
                kind = kind.optional_type.elem_type
                continue
            case "map_type":
                kind = kind.map_type.value_type
                continue
        return
