"""The one input of an ONNX graph: its own, or several that the graph first joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwardpass.models.errors import UnsupportedModelError, UnsupportedSourceError

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto


@dataclass(frozen=True)
class OnnxInput:
    """The input of a graph that has the rows."""

    tensor: str
    """The tensor of the graph that has the rows."""
    name: str
    """Its name in the network: that of the tensor, in the form that a Network allows."""
    size: int
    batch: int | None
    """The number of rows if the file fixes it; a Network takes any number."""
    is_joined: bool = False
    """Whether the tensor is the Concat of several inputs."""
    features: tuple[str, ...] = ()
    """The names of the columns, if they come from several inputs."""


def read_input(
    inputs: "Sequence[ValueInfoProto]",
    nodes: "Sequence[NodeProto]",
    *,
    max_size: int,
    round_float64: bool,
) -> OnnxInput:
    """Return the input that nodes read.

    Raises UnsupportedModelError unless there is one input of real rows, or all are read by one
    Concat and by nothing else.
    """
    read = [value for value in inputs if any(value.name in node.input for node in nodes)]
    if not read:
        raise UnsupportedModelError("graph", "no node that leads to an output reads an input")
    sizes = {value.name: _size(value, max_size, round_float64=round_float64) for value in read}
    batches = {value.type.tensor_type.shape.dim[0].dim_value for value in read} - {0}
    batch = batches.pop() if len(batches) == 1 else None
    if len(read) == 1:
        (name,) = sizes
        return OnnxInput(name, name, sizes[name], batch)
    readers = [node for node in nodes if any(name in sizes for name in node.input)]
    joins = readers[0]
    if (
        len(readers) != 1
        or joins.op_type != "Concat"
        or sorted(joins.input) != sorted(sizes)
        or [attribute.i for attribute in joins.attribute] not in ([1], [-1])
    ):
        raise UnsupportedModelError(
            "graph",
            f"{len(read)} inputs ({', '.join(sizes)}) that are not joined by a Concat before "
            "anything else, and a Network has one",
        )
    features = tuple(
        name if sizes[name] == 1 else f"{name}[{column}]"
        for name in joins.input
        for column in range(sizes[name])
    )
    return OnnxInput(joins.output[0], "x", len(features), batch, True, features)


def _size(value: "ValueInfoProto", max_size: int, *, round_float64: bool) -> int:
    from onnx import TensorProto

    part = f"input {value.name!r}"
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    if kind == "DOUBLE" and not round_float64:
        raise UnsupportedSourceError(
            part,
            "takes float64, and a Network float32",
            "pass round_float64=True to round the rows, or write the file in float32",
        )
    shape = tensor.shape.dim
    is_float = kind in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    if not is_float or len(shape) != 2 or shape[1].dim_value < 1:
        sizes = [axis.dim_value or axis.dim_param or "?" for axis in shape]
        raise UnsupportedModelError(
            part,
            f"expected floats of shape (rows, features), got {kind} of shape "
            f"({', '.join(map(str, sizes))})",
        )
    # The width may be wrong until weights confirm it.
    if shape[1].dim_value > max_size:
        raise UnsupportedModelError(
            part, f"{shape[1].dim_value} features, more than the file has bytes"
        )
    return shape[1].dim_value
