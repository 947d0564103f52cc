"""Reads the nodes of an ONNX graph as layers, in the form that `graph` writes, with any names.

Nothing is guessed and nothing is dropped: a node that is not part of a layer is rejected by its
name and operator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import (
    AnyActivation,
    GroupedSoftmax,
    LayerNorm,
    PRelu,
    last_of,
)
from forwardpass.models.categorical import REFUSE, ZEROS
from forwardpass.models.errors import NetworkError, UnsupportedModelError
from forwardpass.models.file.node import DOMAINS, ML_DOMAIN, attributes, refused
from forwardpass.models.file.operators import OPERATORS, activation_of_node
from forwardpass.proto.metadata import MISSING_INTEGER, MISSING_TEXT

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

_FLOAT = 1
"""The number of float32 among ONNX' types."""

_INPUTS: dict[str, int | None] = dict.fromkeys(OPERATORS, 1)
_INPUTS |= {"Gemm": 3, "Sub": 2, "Div": 2, "Identity": 1, "PRelu": 2}
_INPUTS |= {"IsNaN": 1, "Where": 3}
_INPUTS |= {"Slice": 4, "Concat": None, "LayerNormalization": 3}
_INPUTS |= {"LabelEncoder": 1, "Equal": 2, "Cast": 1, "MatMul": 2, "Less": 2}
"""Every operator that a Network has, and the number of its inputs; None: any."""


@dataclass(eq=False)
class ScalingDraft:
    """An input of numbers, or a form of it, while the nodes are being read."""

    source: str
    """The name of the input."""
    tensor: str
    size: int
    node: "NodeProto | None" = None
    """The node that computes it; None for the input itself."""
    parts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """`fill`, `mean` and `scale`, if it has them."""
    is_read: bool = False
    """Whether a layer reads it."""
    leads_on: bool = False
    """Whether another form reads it."""


@dataclass(eq=False)
class CategoryDraft:
    """An input of categories, or a form of it, while the nodes are being read."""

    source: str
    is_text: bool
    node: "NodeProto | None" = None
    categories: Sequence[str] | Sequence[int] = ()
    """Empty before they are read."""
    unknown: str | int = REFUSE
    missing: str | int | None = None
    values: NDArray[np.float32] | None = None
    is_read: bool = False
    leads_on: bool = False


@dataclass(eq=False)
class LayerDraft:
    """A layer while its nodes are being read."""

    b: NDArray[np.float32]
    reads: "list[Draft]" = field(default_factory=list)
    blocks: list[NDArray[np.float32]] = field(default_factory=list)
    activation: AnyActivation = "identity"
    is_read: bool = False


InputDraft: TypeAlias = ScalingDraft | CategoryDraft
Draft: TypeAlias = LayerDraft | InputDraft
"""The types of what layers read."""


@dataclass(frozen=True)
class HeldTensor:
    """The content of a tensor of the graph."""

    layer: Draft
    of: str
    """z or a of a layer, a of what layers read of an input, or a step towards it."""


class GraphReader:
    """Reads nodes in the graph's order, which has to be one in which they can be computed."""

    def __init__(self, graph: "GraphProto") -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]
        self.inputs = [_input(value) for value in inputs]
        self.layers: list[LayerDraft] = []
        self._groups: dict[str, tuple[int, int]] = {}
        self.tensors = {
            draft.source: HeldTensor(draft, "a" if isinstance(draft, ScalingDraft) else "category")
            for draft in self.inputs
        }

    def read(self, node: "NodeProto") -> None:
        """Read the next node; raises UnsupportedModelError if a Network cannot represent it."""
        domains = (ML_DOMAIN,) if node.op_type == "LabelEncoder" else DOMAINS
        if node.domain not in domains or node.op_type not in _INPUTS:
            raise refused(node, f"a Network has only {', '.join(_INPUTS)}")
        inputs = _INPUTS[node.op_type]
        if inputs is None:
            inputs = len(node.input)
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
            case "IsNaN" | "Where" | "LabelEncoder" | "Equal" | "Cast" | "MatMul" | "Less":
                self._of_input(node)
            case "Slice":
                self._group(node)
            case "Softmax" if node.input[0] in self._groups:
                self._shares(node)
            case "Concat":
                self._joined_shares(node)
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
        if source.of not in ("a", "z"):
            raise refused(node, f"reads {node.input[0]!r}, which is not a tensor of numbers")
        source.layer.is_read = True
        W = self._constant(node, node.input[1])
        if node.input[2] in self.constants:
            layer = LayerDraft(self._constant(node, node.input[2]))
        else:
            layer = self._sum(node, node.input[2])
            # The sum so far cannot be read by a layer or be an output.
            self.tensors = {name: t for name, t in self.tensors.items() if t.layer is not layer}
            self.layers.remove(layer)
        if W.ndim != 2 or layer.b.shape != (len(W),):
            raise refused(
                node,
                f"expected a matrix and a bias for each row, got {W.shape} and {layer.b.shape}",
            )
        layer.reads.append(source.layer)
        layer.blocks.append(W)
        self.layers.append(layer)
        self.tensors[node.output[0]] = HeldTensor(layer, "z")

    def _activation(self, node: "NodeProto") -> None:
        layer = self._sum(node, node.input[0], or_norm=True)
        if node.op_type == "PRelu":
            self._finish(node, layer, self._prelu(node))
        elif node.op_type == "LayerNormalization":
            self._finish(node, layer, self._layer_norm(node))
        else:
            self._finish(node, layer, activation_of_node(node))

    def _finish(self, node: "NodeProto", layer: LayerDraft, activation: AnyActivation) -> None:
        """Add the function of a layer's sums, or of what a LayerNorm makes of them."""
        norm = layer.activation
        if isinstance(norm, LayerNorm):
            if isinstance(activation, LayerNorm):
                raise refused(node, "normalizes a row twice, and a Network does it once a layer")
            activation = replace(norm, then=activation)
        # What is between cannot be read by a layer or be an output.
        self.tensors = {
            name: t for name, t in self.tensors.items() if t.layer is not layer or t.of == "z"
        }
        layer.activation = activation
        self.tensors[node.output[0]] = HeldTensor(layer, "a")

    def _layer_norm(self, node: "NodeProto") -> LayerNorm:
        given = attributes(node, {"axis": -1, "epsilon": 1e-5, "stash_type": 1})
        if given["axis"] not in (-1, 1) or given["stash_type"] != 1:
            raise refused(node, "a Network's layer_norm is over each row, in float32")
        scale, bias = (self._constant(node, name).reshape(-1) for name in node.input[1:])
        try:
            return LayerNorm(scale.tolist(), bias.tolist(), given["epsilon"])
        except NetworkError as error:
            raise refused(node, str(error)) from error

    def _prelu(self, node: "NodeProto") -> PRelu:
        attributes(node, {})
        slopes = self._constant(node, node.input[1])
        try:
            return PRelu(slopes.reshape(-1).tolist())
        except NetworkError as error:
            raise refused(node, str(error)) from error

    def _group(self, node: "NodeProto") -> None:
        """Read a group of a layer's sums."""
        attributes(node, {})
        layer = self._sum(node, node.input[0], or_norm=True)
        start, end, axis = (self._position(name) for name in node.input[1:])
        if start is None or end is None or axis != 1:
            raise refused(node, "a Network takes a group out of a layer's units, of constant size")
        self._groups[node.output[0]] = start, end
        self.tensors[node.output[0]] = HeldTensor(layer, "group")

    def _shares(self, node: "NodeProto") -> None:
        if activation_of_node(node) != "softmax" or self.tensors[node.input[0]].of != "group":
            raise refused(node, "expected a softmax over each row of a group")
        self._groups[node.output[0]] = self._groups[node.input[0]]
        layer = self._tensor(node, node.input[0]).layer
        self.tensors[node.output[0]] = HeldTensor(layer, "shares")

    def _joined_shares(self, node: "NodeProto") -> None:
        """Read a softmax over groups: their shares side by side."""
        read = [self._tensor(node, name) for name in node.input]
        layer = read[0].layer if read else None
        ends = [self._groups.get(name, (0, 0)) for name in node.input]
        if (
            not isinstance(layer, LayerDraft)
            or any(each.layer is not layer or each.of != "shares" for each in read)
            or layer.is_read
            or last_of(layer.activation) != "identity"
            or [start for start, _ in ends] != [0, *(end for _, end in ends[:-1])]
            or attributes(node, {"axis": 0})["axis"] not in (-1, 1)
        ):
            raise refused(node, "expected the softmaxes of all groups of a layer, in their order")
        try:
            activation = GroupedSoftmax(end - start for start, end in ends)
        except NetworkError as error:
            raise refused(node, str(error)) from error
        self._finish(node, layer, activation)

    def _position(self, name: str) -> int | None:
        """Return the one integer of a constant; None for any other tensor."""
        from onnx import TensorProto

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.INT64 or [*tensor.dims] != [1]:
            return None
        raw = tensor.raw_data or np.array(tensor.int64_data, "<i8").tobytes()
        return int.from_bytes(raw, "little", signed=True)

    def scalar(self, name: str) -> float | None:
        """Return the one number of a constant; None for any other tensor."""
        tensor = self.constants.get(name)
        if tensor is None or len(tensor.dims) > 1 or math.prod(tensor.dims) != 1:
            return None
        try:
            return float(_array(tensor).item())
        except UnsupportedModelError:
            return None  # The node that reads it is named in the error.

    def _sum(self, node: "NodeProto", name: str, *, or_norm: bool = False) -> LayerDraft:
        """Return the layer whose z a tensor is, to be extended: nothing reads it so far.

        or_norm: Whether it may be what a LayerNorm makes of z.
        """
        tensor = self._tensor(node, name)
        layer = tensor.layer
        normed = or_norm and isinstance(layer, LayerDraft) and layer.activation != "identity"
        if (
            not isinstance(layer, LayerDraft)
            or tensor.of != ("a" if normed else "z")
            or layer.is_read
            or (last_of(layer.activation) if normed else layer.activation) != "identity"
        ):
            raise refused(node, f"expected {name!r} to be a Gemm's sum that nothing else reads")
        return layer

    def _scaling(self, node: "NodeProto") -> None:
        attributes(node, {})
        part = {"Sub": "mean", "Div": "scale"}[node.op_type]
        given, of = self._held(node, node.input[0])
        if not isinstance(given, ScalingDraft) or of != "a" or {part, "scale"} & {*given.parts}:
            raise refused(node, "a Network scales only its input: (x - mean) / scale, once")
        self._add_form(node, given, parts={part: self._constant(node, node.input[1])})

    def _of_input(self, node: "NodeProto") -> None:
        """Read a node that fills in missing values, or one that encodes categories."""
        draft, of = self._held(node, node.input[0])
        result = node.output[0]
        match node.op_type, of, draft:
            case "IsNaN", "a", ScalingDraft() if draft.node is None:
                self.tensors[result] = HeldTensor(draft, "missing")
            case "Where", "missing", ScalingDraft() if node.input[2] == draft.source:
                fill = self._constant(node, node.input[1])
                if fill.shape != (draft.size,):
                    raise refused(node, f"expected a value for each feature, got {fill.shape}")
                self._add_form(node, draft, parts={"fill": fill})
            case "LabelEncoder", "category", CategoryDraft():
                self._add_form(node, draft, of="index", **_encoding(node, draft))
            case "Equal", "index", CategoryDraft() if self._is_whole(
                node.input[1], np.arange(len(draft.categories))
            ):
                self.tensors[result] = HeldTensor(draft, "equal")
            case "Cast", "equal", CategoryDraft():
                if attributes(node, {"to": 0, "saturate": 1})["to"] != _FLOAT:
                    raise refused(node, "expected float32")
                self.tensors[result] = HeldTensor(draft, "a")
            case "MatMul", "a", CategoryDraft() if draft.values is None:
                values = self._constant(node, node.input[1])
                self._add_form(node, draft, values=values)
            case "Less", "index", CategoryDraft() if self._is_whole(node.input[1], np.array(0)):
                self.tensors[result] = HeldTensor(draft, "unknown")
            case "Where", "unknown", CategoryDraft() if draft.unknown == ZEROS:
                rows, of = self._held(node, node.input[2])
                is_nan = np.isnan(self._constant(node, node.input[1])).all()
                if not is_nan or of != "a" or not isinstance(rows, CategoryDraft):
                    raise refused(node, "expected NaN in place of rows of unknown categories")
                if (rows.source, rows.unknown) != (draft.source, ZEROS):
                    raise refused(node, "expected the rows of the same input")
                self._add_form(node, rows, unknown=REFUSE)
            case _:
                raise refused(node, "not as a Network fills in or encodes an input")

    def _add_form(
        self, node: "NodeProto", draft: InputDraft, of: str = "a", **changes: Any
    ) -> None:
        """Add another form of an input, which a node computes."""
        draft.leads_on = True
        if isinstance(draft, ScalingDraft):
            changes = {"tensor": node.output[0], "parts": draft.parts | changes["parts"]}
        form = replace(draft, node=node, is_read=False, leads_on=False, **changes)
        self.inputs.append(form)
        self.tensors[node.output[0]] = HeldTensor(form, of)

    def read_inputs(self) -> dict[str, list[InputDraft]]:
        """Return the forms of each input that layers read: of numbers one or several.

        Raises UnsupportedModelError for a form that no layer reads, and for an input that is read
        with and without its missing values.
        """
        read: dict[str, list[InputDraft]] = {draft.source: [] for draft in self.inputs}
        for draft in self.inputs:
            if draft.node is not None and not (draft.is_read or draft.leads_on):
                raise refused(draft.node, "a scaling that no layer reads")
            if draft.is_read:
                read[draft.source].append(draft)
        for name, drafts in read.items():
            if not drafts:
                raise UnsupportedModelError(f"input {name!r}", "no layer reads it")
            if isinstance(drafts[0], CategoryDraft):
                alike = len(drafts) == 1
            else:
                fills = [d.parts.get("fill") for d in drafts if isinstance(d, ScalingDraft)]
                alike = all(fill is fills[0] for fill in fills)
            if not alike:
                raise UnsupportedModelError(
                    f"input {name!r}", "layers read it in several forms, and a Network has one"
                )
        return read

    def _held(self, node: "NodeProto", name: str) -> tuple[Draft, str]:
        tensor = self._tensor(node, name)
        return tensor.layer, tensor.of

    def _is_whole(self, name: str, expected: NDArray[np.int64]) -> bool:
        """Whether a tensor is a constant with these integers."""
        from onnx import TensorProto

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.INT64:
            return False
        raw = tensor.raw_data or np.array(tensor.int64_data, "<i8").tobytes()
        return tuple(tensor.dims) == expected.shape and raw == expected.astype("<i8").tobytes()

    def _tensor(self, node: "NodeProto", name: str) -> HeldTensor:
        if name not in self.tensors:
            raise refused(node, f"reads {name!r}, which is not a tensor of a Network")
        return self.tensors[name]

    def _constant(self, node: "NodeProto", name: str) -> NDArray[np.float32]:
        if name not in self.constants:
            raise refused(node, f"expected {name!r} to be an initializer")
        return _array(self.constants[name])


def _input(value: "ValueInfoProto") -> InputDraft:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    shape = tensor.shape.dim
    if len(shape) == 2 and shape[1].dim_value >= 1:
        if tensor.elem_type == TensorProto.FLOAT:
            return ScalingDraft(value.name, value.name, shape[1].dim_value)
        if shape[1].dim_value == 1 and tensor.elem_type in (TensorProto.STRING, TensorProto.INT64):
            return CategoryDraft(value.name, tensor.elem_type == TensorProto.STRING)
    raise UnsupportedModelError(
        f"input {value.name!r}",
        "a network's input is float32 of shape (batch, features), or texts or int64 of shape "
        "(batch, 1)",
    )


def _encoding(node: "NodeProto", draft: CategoryDraft) -> dict[str, Any]:
    """Return the categories of a LabelEncoder, and what it does with others."""
    keys = "keys_strings" if draft.is_text else "keys_int64s"
    given = attributes(node, {keys: [], "values_int64s": [], "default_int64": -1})
    categories, codes, default = given[keys], given["values_int64s"], given["default_int64"]
    absent = MISSING_TEXT if draft.is_text else MISSING_INTEGER
    missing = None
    if codes and codes[-1] != len(codes) - 1 and categories[-1:] == [absent]:
        (*categories, _), (*codes, code) = categories, codes
        missing = categories[code] if 0 <= code < len(categories) else None
    if codes != [*range(len(categories))] or not -1 <= default < len(categories):
        raise refused(node, "expected the categories' numbers to count from 0")
    unknown = ZEROS if default < 0 else categories[default]
    return {"categories": categories, "unknown": unknown, "missing": missing}


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
    # The shape may be wrong: no memory is allocated by it.
    shape = tuple(tensor.dims)
    if values.size != math.prod(shape) or min(shape, default=1) < 0:
        raise UnsupportedModelError(
            part, f"expected the values of shape {shape}, got {values.size}"
        )
    return values.reshape(shape)
