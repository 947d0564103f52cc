"""`forwardpass export`."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="What to export: an example's name (breast_cancer), a file (.onnx of any "
            "producer, .keras, .skops, .npz, .safetensors), or MODULE:NAME or FILE.py:NAME of a "
            "Network or of a function that returns one."
        ),
    ],
    to: Annotated[
        str,
        typer.Argument(
            help="A .onnx file to write, or a model repository to publish into, which may be in an "
            "object store: s3://BUCKET/PATH."
        ),
    ],
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version in the repository; the next free one if left out."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Whether an existing file, or the version, is replaced."),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the model; its own, or the file's, if left out.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="Activations for .npz and .safetensors, by layer: relu,relu,softmax."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Order of the layers for .npz and .safetensors, as in encoder,decoder, if their "
            "names differ in more than numbers."
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Output of .onnx to keep; may be repeated. All if left out."),
    ] = None,
    round_float64: Annotated[
        bool,
        typer.Option(
            "--round-float64", help="Whether float64 weights of .onnx are rounded to float32."
        ),
    ] = False,
    expose: Annotated[
        str,
        typer.Option(
            help="Hidden values to add as outputs a_2, z_2, ...: activations (a), the sums before "
            "them (z) or both (za)."
        ),
    ] = "",
    int8: Annotated[
        Path | None,
        typer.Option(
            help="A .csv or .npy file of rows to calibrate static int8 with; the loss is "
            "reported. float32 if left out."
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Maximum loss of --int8 that is accepted: the largest error over the largest "
            "answer. You are asked if left out.",
        ),
    ] = None,
) -> None:
    """Prove a network against its mathematics and write it as ONNX."""
    from forwardpass.cli.networks.export import export_network
    from forwardpass.cli.networks.files import FileOptions

    options = FileOptions(
        activations=None if activations is None else activations.split(","),
        layers=None if layers is None else layers.split(","),
        select=select or None,
        round_float64=round_float64 or None,
    )
    export_network(
        source,
        to,
        options=options,
        name=name,
        version=version,
        overwrite=overwrite,
        exposed=expose,
        int8=int8,
        max_loss=max_loss,
    )
