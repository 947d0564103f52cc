"""`forwardpass describe`."""

from pathlib import Path
from typing import Annotated

import typer

_NAMES = "NAME=A,B,...; the name may be left out where there is one. May be repeated."


def describe(
    source: Annotated[Path, typer.Argument(help="A .onnx file of any producer.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    features: Annotated[
        list[str] | None, typer.Option(help=f"Names of an input's columns: {_NAMES}")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help=f"Labels of an output's columns: {_NAMES}")
    ] = None,
    units: Annotated[
        list[str] | None, typer.Option(help=f"Units of an output's columns: {_NAMES}")
    ] = None,
    thresholds: Annotated[
        list[str] | None,
        typer.Option(help=f"Thresholds above which a column's label applies: {_NAMES}"),
    ] = None,
    provenance: Annotated[
        list[str] | None,
        typer.Option(
            help="A text to add to the provenance: NAME=TEXT, as in limits='adults alone'. May be "
            "repeated."
        ),
    ] = None,
    drop_samples: Annotated[
        bool,
        typer.Option(
            "--drop-samples",
            help="Leave out the sample rows with their answers, which a file no longer returns bit "
            "for bit if another tool converted or quantized it.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Whether to replace an output that exists.")
    ] = False,
) -> None:
    """Name the columns of a model file, in a copy of it; its graph stays as it is."""
    from forwardpass.cli.networks.describe import ColumnTexts, describe_file

    columns = ColumnTexts(features or (), labels or (), units or (), thresholds or ())
    describe_file(
        source,
        output,
        columns,
        provenance or (),
        drop_samples=drop_samples,
        overwrite=overwrite,
    )
