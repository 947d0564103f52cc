"""`forwardpass draw`."""

from pathlib import Path
from typing import Annotated

import typer


def draw(
    source: Annotated[
        str,
        typer.Argument(
            help="What to draw: a .onnx file of a network, or what `export` takes: an example's "
            "name, a .keras or .skops file, MODULE:NAME or FILE.py:NAME."
        ),
    ],
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .svg file to write; stdout if left out."),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option(
            help="Row of features whose activations fill the neurons: numbers with commas between "
            "them, or a .csv or .npy file, whose first row is taken."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Whether to replace an output that exists.")
    ] = False,
) -> None:
    """Draw a network: layers, weights and the activations of a row."""
    from forwardpass.cli.networks.draw import draw_network

    draw_network(source, output_file, row, overwrite=overwrite)
