"""`forwardpass card`."""

from pathlib import Path
from typing import Annotated

import typer


def card(
    source: Annotated[Path, typer.Argument(help="A .onnx file of any producer.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A Markdown file to write; stdout if left out."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Whether to replace an output that exists.")
    ] = False,
) -> None:
    """Write the model card of a file: what its author gave, and what the file shows."""
    from forwardpass.cli.networks.card import write_card

    write_card(source, output, overwrite=overwrite)
