"""The limits of a model file."""

from dataclasses import dataclass
from typing import Annotated

from forwardpass.server.settings import INT32_MAX, Setting, check


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits that an operator sets for model files; checked when built.

    Raises ValueError that names the setting, what is allowed and what came.
    """

    general: Annotated[
        bool,
        Setting(
            "Whether files are also served that can take memory or time without bound, with "
            "loops, functions or operators of any kind, once they pass their trial. Only for "
            "files that you trust.",
            name="general_models",
        ),
    ] = False
    unproven: Annotated[
        bool,
        Setting(
            "Whether files are also served that answer none of the inputs that are tried, with "
            "`--general-models`. They are never batched; `forwardpass.unproven` in their metadata "
            "says why.",
            name="unproven_models",
        ),
    ] = False
    max_file_bytes: Annotated[
        int,
        Setting(
            "Maximum size of a model file with its external data, in bytes.",
            unit="bytes",
            least=1024,
            # protobuf reads no message of 2 GiB.
            most=INT32_MAX,
            name="max_model_bytes",
        ),
    ] = 2**29
    max_nodes: Annotated[
        int,
        Setting(
            "Maximum number of nodes of the graph, those of subgraphs and functions included.",
            least=1,
            offered=False,
        ),
    ] = 10_000  # onnxruntime needs 0.4 s to load a chain of so many
    max_tensors: Annotated[
        int, Setting("Maximum number of inputs, and of outputs.", least=1, offered=False)
    ] = 256
    max_plain_bytes: Annotated[
        int,
        Setting(
            "Maximum memory in bytes of all tensors of a plain file when it is loaded, with 512 "
            "rows or its samples run at once; a file that may take more has to pass a trial.",
            unit="bytes",
            least=1,
            offered=False,
        ),
    ] = 2**28
    max_plain_operations: Annotated[
        int,
        Setting(
            "Maximum number of multiplications of a plain file for one row or its samples.",
            least=1,
            offered=False,
        ),
    ] = 2**30  # about a second

    def __post_init__(self) -> None:
        check(self)
        if self.unproven and not self.general:
            raise ValueError("unproven_models: expected general_models as well, got it alone")
