"""The proof that a file is a plain feed-forward network: what it computes, and how much.

Each node is read in order with what is known of its inputs: data type, shape, constant or not.
A network whose every operator is known, whose shapes chain and whose rows are small and cheap
can be loaded and run by onnxruntime without harm. An operator that is not known ends the proof.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forwardpass.proto import metadata
from forwardpass.server.guard.errors import GuardError, NodeError, NotPlainError, node_part
from forwardpass.server.guard.limits import Limits
from forwardpass.server.guard.operators import OPERATORS
from forwardpass.server.guard.rules import Tensor, constant
from forwardpass.server.guard.shapes import elements, format_lengths
from forwardpass.server.onnx_messages import GraphProto, ModelProto, NodeProto, ValueInfoProto

_OPSET = 13
"""The oldest opset whose operators the rules describe."""
_ELEMENT_BYTES = 8
"""At most, but for text."""
_FOLDED_BYTES = 4
"""As floats, mostly."""
_TOGETHER = 512
"""The number of rows that `tuning` runs at once at most."""


def prove_plain(model: ModelProto, samples: Mapping[str, tuple[int, ...]], limits: Limits) -> int:
    """Return if the model is a plain feed-forward network.

    Returns the bytes of the constants that onnxruntime computes from others when it loads it.

    samples: the shapes that its inputs have when it is loaded; one row where they say nothing.
    Raises NotPlainError if that is not certain, GuardError if shapes contradict one another.
    """
    opsets = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if min(opsets, default=0) < _OPSET:
        raise NotPlainError(f"its opset is older than {_OPSET}, or not stated")
    strict = any(entry.key == metadata.FORMAT for entry in model.metadata_props)
    proof = _Proof(model.graph, _rows(model.graph, samples), limits, strict)
    proof.run()
    return proof.folded * _FOLDED_BYTES


def _rows(graph: GraphProto, samples: Mapping[str, tuple[int, ...]]) -> int:
    """Return the largest product of the lengths that the samples give to an input's free axes."""
    rows = 1
    for value in graph.input:
        shape = samples.get(value.name, ())
        for axis, dim in enumerate(value.type.tensor_type.shape.dim[: len(shape)]):
            if dim.HasField("dim_value"):
                shape = (*shape[:axis], 1, *shape[axis + 1 :])
        rows = max(rows, math.prod(shape))
    return rows


@dataclass
class _Proof:
    """The state of one proof."""

    graph: GraphProto
    rows: int
    limits: Limits
    strict: bool
    """Whether each bias needs one entry a unit, as in files of our own contract. In any other
    file a bias of length 1 is what ONNX says: one number for all units."""
    elements: int = 0
    """Elements of all tensors so far, for the samples or the most rows that run at once."""
    operations: int = 0
    """Multiplications so far, for the samples."""
    folded: int = 0
    """Elements of constants that come of others."""

    def run(self) -> None:
        """See `prove_plain`."""
        known = {tensor.name: constant(tensor) for tensor in self.graph.initializer}
        for value in self.graph.input:
            if value.name not in known:
                known[value.name] = _declared(value)
                self._count(known[value.name])
        for node in self.graph.node:
            known[node.output[0]] = self._result(node, known)
        for value in [*self.graph.value_info, *self.graph.output]:
            if value.name in known:
                _check_declared(value, known[value.name])

    def _result(self, node: NodeProto, known: Mapping[str, Tensor]) -> Tensor:
        part = node_part(node)
        domain = "" if node.domain == "ai.onnx" else node.domain
        operator = OPERATORS.get((domain, node.op_type))
        if operator is None:
            raise NotPlainError(f"{part} is no operator of a plain network")
        try:
            # An optional input that is left out is an empty name.
            inputs = [known[name] for name in node.input if name]
            result = operator.apply(node, inputs)
            if result.constant and inputs:
                self.folded += elements(result.shape).fixed
            self._count(result, inputs[1] if node.op_type in ("Gemm", "MatMul") else None)
            if self.strict and node.op_type == "Gemm":
                _check_bias(inputs[2:], result)
        except NotPlainError as error:
            raise NotPlainError(f"{part}: {error}") from error
        except NodeError as error:
            raise GuardError(part, expected=error.expected, got=error.got, fix=error.fix) from error
        return result

    def _count(self, tensor: Tensor, weights: Tensor | None = None) -> None:
        """Add the cost of a tensor when the model is loaded; raise NotPlainError above a limit."""
        fixed, free = elements(tensor.shape)
        # Its free lengths, all together, are among those of one input.
        self.elements += fixed * max(self.rows, _TOGETHER) if free else fixed
        if weights is not None:
            width = elements(tensor.shape[-1:]).fixed
            each = elements(weights.shape).fixed // max(width, 1)
            self.operations += (fixed * self.rows if free else fixed) * each
        if self.elements * _ELEMENT_BYTES > self.limits.max_plain_bytes:
            raise NotPlainError(f"up to here it takes {self.elements * _ELEMENT_BYTES} bytes")
        if self.operations > self.limits.max_plain_operations:
            raise NotPlainError(f"up to here it takes {self.operations} multiplications")


def _declared(value: ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise NotPlainError(f"{value.name!r} is declared without a shape")
    return Tensor(
        kind.elem_type,
        tuple(
            # A length without a name may be any number, so it gets a unique name.
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}[{axis}]"
            for axis, dim in enumerate(kind.shape.dim)
        ),
    )


def _check_declared(value: ValueInfoProto, computed: Tensor) -> None:
    """Raise GuardError if a declaration contradicts what the graph computes."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise NotPlainError(f"{value.name!r} is not declared as a tensor")
    if kind.HasField("shape"):
        declared = _declared(value).shape
        fits = len(declared) == len(computed.shape) and all(
            mine == other or isinstance(mine, str) or isinstance(other, str)
            for mine, other in zip(declared, computed.shape, strict=True)
        )
        if not fits:
            raise GuardError(
                f"tensor {value.name!r}",
                expected=f"shape {format_lengths(computed.shape)}, which the graph computes",
                got=f"{format_lengths(declared)} declared",
                fix="declare the shape that it has, or leave it out",
            )


def _check_bias(bias: Sequence[Tensor], result: Tensor) -> None:
    width = elements(result.shape[-1:]).fixed
    for tensor in bias:
        if tensor.constant and elements(tensor.shape).fixed != width:
            raise NodeError(
                expected=f"a bias of {width} entries, one a unit", got=format_lengths(tensor.shape)
            )
