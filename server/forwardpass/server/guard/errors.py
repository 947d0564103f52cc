"""Why a file is refused, and why one is not plain."""

from forwardpass.proto.pickling import PicklableError
from forwardpass.server.onnx_messages import NodeProto

ALLOW_GENERAL = "have the operator allow general models (--general-models)"
"""The fix where a file is rejected for what it might do."""


class GuardError(PicklableError):
    """A model file that must not be served; the text is the reason, written for people."""

    def __init__(self, part: str, *, expected: str, got: str, fix: str) -> None:
        super().__init__(f"{part}: expected {expected}, got {got}; {fix}")


class NoRoomError(GuardError):
    """A model that there is no memory for now; later there may be."""


class NotPlainError(Exception):
    """A part of a file that is not refused, but not proven either; the text says which."""


class NodeError(PicklableError):
    """A node that fails for any rows: the shapes of its tensors never fit."""

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
    """Return how an error names a node: by its name, or by the tensors that it computes."""
    name = f"node {node.name!r}" if node.name else f"node of {', '.join(map(repr, node.output))}"
    return f"{name} ({node.op_type})"
