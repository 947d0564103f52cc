"""From an operator of ONNX to the activation function that it is."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forwardpass.models.activations import (
    ACTIVATIONS,
    ActivationName,
    AnyActivation,
    Elu,
    HardSigmoid,
    LeakyRelu,
    is_name,
)
from forwardpass.models.errors import NetworkError
from forwardpass.models.file.node import attributes, refused

if TYPE_CHECKING:
    from onnx import NodeProto

_NAMES: Mapping[str, ActivationName] = {
    f.operator: name
    for name, f in ACTIVATIONS.items()
    if is_name(name) and f.operator is not None and name not in ("prelu", "gelu_tanh")
}
OPERATORS = tuple(_NAMES)
"""The operators of one input that are activation functions, of any opset."""

_SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Elu": {"alpha": 1.0},
    "Gelu": {"approximate": "none"},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "LogSoftmax": {"axis": -1},
    "Selu": _SELU,
    "Softmax": {"axis": -1},
    "Swish": {"alpha": 1.0},
}


def activation_of_node(node: "NodeProto") -> AnyActivation:
    """Return the function of a node whose operator is one of OPERATORS.

    Raises UnsupportedModelError for a parameter that no activation of a Network has.
    """
    given = attributes(node, _DEFAULTS.get(node.op_type, {}))
    name = _NAMES[node.op_type]
    try:
        match node.op_type:
            case "LeakyRelu":
                return LeakyRelu(given["alpha"])
            case "Elu":
                return Elu(given["alpha"])
            case "HardSigmoid" if given["beta"] == 0.5:
                return HardSigmoid(given["alpha"])
            case "Gelu" if given["approximate"] in ("none", "tanh"):
                return "gelu" if given["approximate"] == "none" else "gelu_tanh"
            case "Swish" if given["alpha"] == 1:
                return name
            # The last of two axes, by either of its numbers, means the same in every opset.
            case "Softmax" | "LogSoftmax" if given["axis"] in (-1, 1):
                return name
            case "Selu" if all(_is_close(given[key], number) for key, number in _SELU.items()):
                return name
            case _ if not given:
                return name
    except NetworkError as error:
        raise refused(node, str(error)) from error
    if "axis" in given:
        raise refused(node, f"axis={given['axis']}, where a Network's {name} is over each row")
    texts = ", ".join(f"{key}={value}" for key, value in given.items())
    raise refused(node, f"a Network's {name} has no {texts}")


def _is_close(given: Any, number: float) -> bool:
    return isinstance(given, float) and math.isclose(given, number, rel_tol=1e-6)
