"""`forwardpass inspect`."""

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    path: Annotated[Path, typer.Argument(help="A .onnx file, a directory, or a repository.")],
) -> None:
    """Show layers, shapes, inputs, outputs and labels of model files."""
    from forwardpass.cli.networks.inspect import inspect_path

    inspect_path(path)
