"""One node of an ONNX graph: its attributes, and its name in errors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forwardpass.models.errors import UnsupportedModelError

if TYPE_CHECKING:
    from onnx import NodeProto

DOMAINS = ("", "ai.onnx")
"""The names of the domain of ONNX's own operators."""
ML_DOMAIN = "ai.onnx.ml"


def part_of(node: "NodeProto") -> str:
    """Return the name of a node in errors, as in `node 'conv1' (Conv)`."""
    name = node.name or ", ".join(node.output)
    domain = f"{node.domain}." if node.domain else ""
    return f"node {name!r} ({domain}{node.op_type})"


def refused(node: "NodeProto", why: str) -> UnsupportedModelError:
    """Return the error for a node that a Network cannot represent."""
    return UnsupportedModelError(part_of(node), why)


def attributes(node: "NodeProto", defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's numbers, lists of them and texts, over the operator's defaults.

    Raises UnsupportedModelError for any other attribute.
    """
    from onnx import AttributeProto

    values = dict(defaults)
    for attribute in node.attribute:
        if attribute.name not in defaults:
            raise refused(node, f"a Network cannot represent attribute {attribute.name!r}")
        match attribute.type:
            case AttributeProto.FLOAT:
                values[attribute.name] = attribute.f
            case AttributeProto.INT:
                values[attribute.name] = attribute.i
            case AttributeProto.FLOATS:
                values[attribute.name] = list(attribute.floats)
            case AttributeProto.INTS:
                values[attribute.name] = list(attribute.ints)
            case AttributeProto.STRINGS:
                values[attribute.name] = [
                    each.decode(errors="replace") for each in attribute.strings
                ]
            case AttributeProto.STRING if isinstance(defaults[attribute.name], str):
                values[attribute.name] = attribute.s.decode(errors="replace")
            case _:
                raise refused(node, f"attribute {attribute.name!r} is not a number")
    return values
