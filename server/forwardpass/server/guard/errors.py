"""Why a file is refused, and why one is not plain."""

from onnx import NodeProto

ALLOW_GENERAL = "have the operator allow general models (--general-models)"
"""The way out where a file is refused for what it might do."""


class GuardError(Exception):
    """A model file that must not be served; the text is the reason, written for people."""

    def __init__(self, part: str, *, expected: str, got: str, fix: str) -> None:
        super().__init__(f"{part}: expected {expected}, got {got}; {fix}")


class NotPlainError(Exception):
    """A part of a file that is not refused, but not proven either; the text says which."""


class NodeError(Exception):
    """A node that no rows can be run through: its tensors never fit."""

    def __init__(
        self,
        *,
        expected: str,
        got: str,
        fix: str = "export the network again; its layers do not fit",
    ) -> None:
        super().__init__(f"expected {expected}, got {got}; {fix}")
        self.expected = expected
        self.got = got
        self.fix = fix


def node_part(node: NodeProto) -> str:
    """Return what to call a node in a reason: its name, or the tensor that it gives."""
    name = f"node {node.name!r}" if node.name else f"node of {', '.join(map(repr, node.output))}"
    return f"{name} ({node.op_type})"
