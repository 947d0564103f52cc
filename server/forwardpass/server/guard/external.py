"""A model that keeps weights in other files, made one file: it refers to nothing outside then."""

from collections.abc import Sequence

from forwardpass.proto.varint import write_varint
from forwardpass.server.guard.files import ExternalData, ModelBytes, Outside, check_fits, to_load
from forwardpass.server.guard.parse import RAW_TAG, as_field, raw_data
from forwardpass.server.guard.tensors import data_outside
from forwardpass.server.onnx_messages import GraphProto, ModelProto, TensorProto

_GRAPH_TAG = ModelProto.GRAPH_FIELD_NUMBER << 3 | 2
_INITIALIZER_TAG = GraphProto.INITIALIZER_FIELD_NUMBER << 3 | 2


def bring_in(
    model: ModelProto,
    tensors: Sequence[tuple[str, TensorProto]],
    content: ModelBytes,
    external: ExternalData,
) -> ModelBytes | None:
    """Return a model with all its data in one file; None for one that has them there already.

    model: What was parsed of `content`; it is taken apart. tensors: All that are in it, and what
    to call each. Raises GuardError.
    """
    outside = {
        id(tensor): (part, place)
        for part, tensor in tensors
        if (place := data_outside(part, tensor)) is not None
    }
    if not outside:
        return None
    size = len(content) + sum(place.length for _, place in outside.values())
    check_fits("file with its external data", size, size + to_load(size))
    initializers = list(model.graph.initializer)
    weights = {id(tensor) for tensor in initializers}
    for _, tensor in tensors:
        if id(tensor) not in weights:
            _put_in(tensor, outside.get(id(tensor)), content, external)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = [_head(tensor, outside.get(id(tensor)), content) for tensor in initializers]
    length = len(graph) + sum(len(head) + raw for head, raw in heads)
    whole = ModelBytes()
    whole.write(model.SerializeToString() + write_varint(_GRAPH_TAG) + write_varint(length) + graph)
    for tensor, (head, _) in zip(initializers, heads, strict=True):
        whole.write(head)
        if id(tensor) in outside:
            external.copy(*outside[id(tensor)], whole)
        elif tensor.external_data:
            whole.write(raw_data(tensor, content) or b"")
    return whole.seal()


def _head(
    tensor: TensorProto, outside: tuple[str, Outside] | None, content: ModelBytes
) -> tuple[bytes, int]:
    """Return the field of an initializer up to its raw bytes, and how many of them follow."""
    if not tensor.external_data and outside is None:
        return as_field(_INITIALIZER_TAG, tensor.SerializeToString()), 0
    size = outside[1].length if outside is not None else len(raw_data(tensor, content) or b"")
    bare = _bare(tensor).SerializeToString() + write_varint(RAW_TAG) + write_varint(size)
    return write_varint(_INITIALIZER_TAG) + write_varint(len(bare) + size) + bare, size


def _put_in(
    tensor: TensorProto,
    outside: tuple[str, Outside] | None,
    content: ModelBytes,
    external: ExternalData,
) -> None:
    """Give a tensor its raw bytes, if they are elsewhere."""
    raw = raw_data(tensor, content) if tensor.external_data else None
    if outside is not None:
        with ModelBytes() as copied:
            external.copy(*outside, copied)
            raw = bytes(copied.seal().view)
    if raw is not None:
        tensor.CopyFrom(_bare(tensor))
        tensor.raw_data = bytes(raw)


def _bare(tensor: TensorProto) -> TensorProto:
    bare = TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField("external_data")
    bare.ClearField("data_location")
    return bare
