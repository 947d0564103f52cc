"""How much a model file may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an operator lets a model file be; valid once built.

    Raises ValueError that names the setting, what is allowed and what came.
    """

    max_file_bytes: int = 2**29
    """The file and its external data together."""
    max_nodes: int = 10_000
    """Nodes of the graph, those of subgraphs and functions included. onnxruntime needs 0.4 s
    to load a chain of so many."""
    max_tensors: int = 256
    """Inputs, and as many outputs."""
    max_plain_bytes: int = 2**28
    """What all tensors of a plain file may take together when it is loaded, with 512 rows or its
    samples run at once; one that may take more is tried."""
    max_plain_operations: int = 2**30
    """Multiplications of a plain file for one row or its samples, about a second."""
    general: bool = False
    """Whether files may hold what can take memory or time without bound: subgraphs (Loop, If,
    Scan), functions, operators of any domain or with results of any size. They are tried."""

    def __post_init__(self) -> None:
        # protobuf reads no message of 2 GiB.
        if not 1024 <= self.max_file_bytes < 2**31:
            raise ValueError(
                f"max_file_bytes: expected 1024..{2**31 - 1}, got {self.max_file_bytes}"
            )
        for name in ("max_nodes", "max_tensors", "max_plain_bytes", "max_plain_operations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
