"""Reads the nodes of an ONNX graph as layers: what `graph` writes, whatever its names.

Nothing is guessed and nothing is dropped: a node that is no part of a layer is refused by its
name and operator.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.errors import UnsupportedModelError
from forwardpass.models.onnx_node import DOMAINS, attributes, refused

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

_ACTIVATION_OF = {f.operator: f.name for f in ACTIVATIONS.values() if f.operator is not None}
_INPUTS = {"Gemm": 3, "Sub": 2, "Div": 2, "Identity": 1} | dict.fromkeys(_ACTIVATION_OF, 1)
"""Every operator that a Network has, and the number of its inputs."""


@dataclass(eq=False)
class ScalingDraft:
    """The input, or a scaling of it, while the nodes are being read."""

    tensor: str
    node: "NodeProto | None" = None
    """What gives it; None of the input itself."""
    parts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """`mean` and `scale`, as far as it has them."""
    is_read: bool = False
    """By a layer."""
    leads_on: bool = False
    """To another scaling."""


@dataclass(eq=False)
class LayerDraft:
    """A layer while its nodes are being read."""

    b: NDArray[np.float32]
    reads: "list[Draft]" = field(default_factory=list)
    blocks: list[NDArray[np.float32]] = field(default_factory=list)
    activation: str = "identity"
    is_read: bool = False


Draft: TypeAlias = LayerDraft | ScalingDraft
"""What layers read."""


@dataclass(frozen=True)
class HeldTensor:
    """What a tensor of the graph holds: z or a of a layer, or a^(1)."""

    layer: Draft
    of: str


class GraphReader:
    """Reads nodes in the graph's order, which has to be one in which they can be computed."""

    def __init__(self, graph: "GraphProto") -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs)
            raise UnsupportedModelError(
                "graph", f"a network has 1 input, this {len(inputs)} ({names})"
            )
        self.input_name = inputs[0].name
        self.size = _input_size(inputs[0])
        self.inputs = [ScalingDraft(self.input_name)]
        self.layers: list[LayerDraft] = []
        self.tensors = {self.input_name: HeldTensor(self.inputs[0], "a")}

    def read(self, node: "NodeProto") -> None:
        """Take in the next node; raises UnsupportedModelError if a Network has no place for it."""
        inputs = _INPUTS.get(node.op_type) if node.domain in DOMAINS else None
        if inputs is None:
            raise refused(node, f"a Network has only {', '.join(_INPUTS)}")
        if len(node.input) != inputs or len(node.output) != 1:
            raise refused(
                node,
                f"expected {inputs} inputs and 1 output, "
                f"got {len(node.input)} and {len(node.output)}",
            )
        match node.op_type:
            case "Gemm":
                self._gemm(node)
            case "Sub" | "Div":
                self._scaling(node)
            case "Identity":
                self.tensors[node.output[0]] = self._tensor(node, node.input[0])
            case _:
                self._activation(node)

    def _gemm(self, node: "NodeProto") -> None:
        given = attributes(node, {"alpha": 1, "beta": 1, "transA": 0, "transB": 0})
        if given != {"alpha": 1, "beta": 1, "transA": 0, "transB": 1}:
            raise refused(node, f"expected alpha 1, beta 1, transA 0, transB 1, got {given}")
        source = self._tensor(node, node.input[0])
        before = isinstance(source.layer, LayerDraft) and source.layer.activation != "identity"
        if source.of == "z" and before:
            raise refused(node, f"reads {node.input[0]!r}, which is before an activation")
        source.layer.is_read = True
        W = self._constant(node, node.input[1])
        if node.input[2] in self.constants:
            layer = LayerDraft(self._constant(node, node.input[2]))
        else:
            layer = self._sum(node, node.input[2])
            # The sum so far is nothing that a layer could read or an output show.
            self.tensors = {name: t for name, t in self.tensors.items() if t.layer is not layer}
            self.layers.remove(layer)
        if W.ndim != 2 or layer.b.shape != (len(W),):
            raise refused(
                node,
                f"expected a matrix and a bias a row, got shapes {W.shape} and {layer.b.shape}",
            )
        layer.reads.append(source.layer)
        layer.blocks.append(W)
        self.layers.append(layer)
        self.tensors[node.output[0]] = HeldTensor(layer, "z")

    def _activation(self, node: "NodeProto") -> None:
        given = attributes(node, {"axis": -1} if node.op_type == "Softmax" else {})
        # The last of two axes, under either of its numbers.
        if given.get("axis", -1) not in (-1, 1):
            raise refused(node, f"expected axis 1, got {given['axis']:g}")
        layer = self._sum(node, node.input[0])
        layer.activation = _ACTIVATION_OF[node.op_type]
        self.tensors[node.output[0]] = HeldTensor(layer, "a")

    def _sum(self, node: "NodeProto", name: str) -> LayerDraft:
        """Return the layer whose z a tensor is, to be continued: nothing reads it so far."""
        tensor = self._tensor(node, name)
        layer = tensor.layer
        if (
            isinstance(layer, ScalingDraft)
            or tensor.of != "z"
            or layer.is_read
            or layer.activation != "identity"
        ):
            raise refused(node, f"expected {name!r} to be a Gemm's sum that nothing else reads")
        return layer

    def _scaling(self, node: "NodeProto") -> None:
        attributes(node, {})
        part = {"Sub": "mean", "Div": "scale"}[node.op_type]
        given = self._tensor(node, node.input[0]).layer
        if isinstance(given, LayerDraft) or part in given.parts or "scale" in given.parts:
            raise refused(node, "a Network scales its input alone: (x - mean) / scale, once")
        given.leads_on = True
        parts = given.parts | {part: self._constant(node, node.input[1])}
        self.inputs.append(ScalingDraft(node.output[0], node, parts))
        self.tensors[node.output[0]] = HeldTensor(self.inputs[-1], "a")

    def read_inputs(self) -> list[ScalingDraft]:
        """Return what layers read of the input: itself, scalings of it, or both.

        Raises UnsupportedModelError for a scaling that leads nowhere.
        """
        for draft in self.inputs:
            if draft.node is not None and not (draft.is_read or draft.leads_on):
                raise refused(draft.node, "a scaling that no layer reads")
        return [draft for draft in self.inputs if draft.is_read]

    def _tensor(self, node: "NodeProto", name: str) -> HeldTensor:
        if name not in self.tensors:
            raise refused(node, f"reads {name!r}, which is no tensor of a Network")
        return self.tensors[name]

    def _constant(self, node: "NodeProto", name: str) -> NDArray[np.float32]:
        if name not in self.constants:
            raise refused(node, f"expected {name!r} to be an initializer")
        return _array(self.constants[name])


def _input_size(value: "ValueInfoProto") -> int:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    shape = tensor.shape.dim
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 2 or shape[1].dim_value < 1:
        raise UnsupportedModelError(
            f"input {value.name!r}", "a network's input is float32 of shape (batch, features)"
        )
    return shape[1].dim_value


def _array(tensor: "TensorProto") -> NDArray[np.float32]:
    from onnx import TensorProto

    part = f"initializer {tensor.name!r}"
    if tensor.data_type != TensorProto.FLOAT or tensor.data_location == TensorProto.EXTERNAL:
        raise UnsupportedModelError(part, "expected float32 stored in the file itself")
    values = (
        np.frombuffer(tensor.raw_data, "<f4")
        if tensor.HasField("raw_data")
        else np.array(tensor.float_data, np.float32)
    )
    # The shape is a claim: nothing is allocated after it.
    shape = tuple(tensor.dims)
    if values.size != math.prod(shape) or min(shape, default=1) < 0:
        raise UnsupportedModelError(
            part, f"expected the values of shape {shape}, got {values.size}"
        )
    return values.reshape(shape)
