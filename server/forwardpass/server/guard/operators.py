"""The operators of plain feed-forward networks: what a node of each looks like.

The time and memory of each follow from the sizes of its inputs, and no numbers make it crash
onnxruntime. A node that differs from what is listed here is not plain.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from forwardpass.server.guard import rules
from forwardpass.server.guard.errors import NodeError, NotPlainError
from forwardpass.server.guard.rules import Rule, Tensor
from forwardpass.server.onnx_messages import AttributeProto, NodeProto

_INT, _FLOAT, _TEXT = AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING
_INTS, _FLOATS, _TENSOR = AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.TENSOR
_TEXTS = AttributeProto.STRINGS
_VALUES = {
    _INT: "i",
    _FLOAT: "f",
    _TEXT: "s",
    _INTS: "ints",
    _FLOATS: "floats",
    _TEXTS: "strings",
    _TENSOR: "t",
}


class Operator(NamedTuple):
    """What a plain node of one kind looks like."""

    rule: Rule
    inputs: range
    """The numbers of inputs that it may have."""
    attributes: Mapping[str, int] = {}
    """The attributes that it may have -> their types."""

    def apply(self, node: NodeProto, inputs: Sequence[Tensor]) -> Tensor:
        """Return what is known of the node's output; raises NodeError or NotPlainError."""
        if len(inputs) not in self.inputs or len(node.output) != 1 or not node.output[0]:
            raise NotPlainError("it has other inputs or outputs than usual")
        return self.rule(inputs, self._read(node))

    def _read(self, node: NodeProto) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for attribute in node.attribute:
            name = attribute.name
            if (
                name in values
                or attribute.ref_attr_name
                or self.attributes.get(name) != attribute.type
            ):
                raise NotPlainError(f"attribute {name!r} is not one of its usual ones")
            value = getattr(attribute, _VALUES[attribute.type])
            for number in {_FLOAT: (value,), _FLOATS: value}.get(attribute.type, ()):
                # What a constant may be depends on what reads it: see `finite`.
                if not math.isfinite(number) and node.op_type != "Constant":
                    raise NodeError(
                        expected=f"finite numbers in {name!r}",
                        got=str(number),
                        fix="export the model again",
                    )
            values[name] = value
        return values


_ONE, _TWO, _ANY = range(1, 2), range(2, 3), range(1, 257)
_ALPHA = {"alpha": _FLOAT}
_AXIS = {"axis": _INT}
_QUANTIZED = {"axis": _INT, "saturate": _INT}
_POSITION = {"axis": _INT, "keepdims": _INT, "select_last_index": _INT}


def _named(names: str, operator: Operator) -> dict[tuple[str, str], Operator]:
    return {("", name): operator for name in names.split()}


OPERATORS: Mapping[tuple[str, str], Operator] = {
    **_named(
        "Abs Ceil Erf Exp Floor HardSwish Log Mish Neg Not Reciprocal Relu Round Sigmoid Sign "
        "Softplus Softsign Sqrt Tanh",
        Operator(rules.same, _ONE),
    ),
    **_named("Celu Elu LeakyRelu ThresholdedRelu", Operator(rules.same, _ONE, _ALPHA)),
    **_named("Selu", Operator(rules.same, _ONE, {"alpha": _FLOAT, "gamma": _FLOAT})),
    **_named("HardSigmoid", Operator(rules.same, _ONE, {"alpha": _FLOAT, "beta": _FLOAT})),
    **_named("Gelu", Operator(rules.same, _ONE, {"approximate": _TEXT})),
    **_named("IsNaN", Operator(rules.test, _ONE)),
    **_named("Identity", Operator(rules.identity, _ONE)),
    **_named("Cast", Operator(rules.cast, _ONE, {"to": _INT, "saturate": _INT})),
    **_named("Clip", Operator(rules.clip, range(1, 4))),
    **_named("Add Mul Pow PRelu Sub", Operator(rules.elementwise, _TWO)),
    **_named("Div", Operator(rules.divide, _TWO)),
    **_named("Max Mean Min Sum", Operator(rules.elementwise, _ANY)),
    **_named(
        "And Equal Greater GreaterOrEqual Less LessOrEqual Or Xor",
        Operator(rules.comparison, _TWO),
    ),
    **_named("Where", Operator(rules.selection, range(3, 4))),
    **_named("MatMul", Operator(rules.matmul, _TWO)),
    **_named(
        "Gemm",
        Operator(
            rules.gemm,
            range(2, 4),
            {"alpha": _FLOAT, "beta": _FLOAT, "transA": _INT, "transB": _INT},
        ),
    ),
    **_named(
        "LayerNormalization",
        Operator(
            rules.layer_norm,
            range(2, 4),
            {"axis": _INT, "epsilon": _FLOAT, "stash_type": _INT},
        ),
    ),
    **_named("LogSoftmax Softmax", Operator(rules.along_last, _ONE, _AXIS)),
    **_named("Flatten", Operator(rules.flatten, _ONE, _AXIS)),
    **_named("Concat", Operator(rules.concat, _ANY, _AXIS)),
    **_named("Slice", Operator(rules.cut, range(4, 6))),
    **_named("Reshape", Operator(rules.reshaped, _TWO, {"allowzero": _INT})),
    **_named("Transpose", Operator(rules.transpose, _ONE, {"perm": _INTS})),
    **_named("Squeeze", Operator(rules.squeeze, _TWO)),
    **_named("Unsqueeze", Operator(rules.unsqueeze, _TWO)),
    **_named("ArgMax ArgMin", Operator(rules.position, _ONE, _POSITION)),
    **_named("QuantizeLinear", Operator(rules.quantize, range(2, 4), _QUANTIZED)),
    **_named("DequantizeLinear", Operator(rules.dequantize, range(2, 4), _QUANTIZED)),
    **_named(
        "Constant",
        Operator(
            rules.literal,
            range(1),
            {
                "value": _TENSOR,
                "value_float": _FLOAT,
                "value_floats": _FLOATS,
                "value_int": _INT,
                "value_ints": _INTS,
            },
        ),
    ),
    ("ai.onnx.ml", "Scaler"): Operator(rules.scaler, _ONE, {"offset": _FLOATS, "scale": _FLOATS}),
    ("ai.onnx.ml", "Normalizer"): Operator(rules.same, _ONE, {"norm": _TEXT}),
    ("ai.onnx.ml", "ArrayFeatureExtractor"): Operator(rules.pick_columns, _TWO),
    ("ai.onnx.ml", "LabelEncoder"): Operator(
        rules.encode,
        _ONE,
        {
            "keys_int64s": _INTS,
            "keys_strings": _TEXTS,
            "values_int64s": _INTS,
            "default_int64": _INT,
        },
    ),
}
"""The operators by domain and name, as defined from opset 13 on."""
