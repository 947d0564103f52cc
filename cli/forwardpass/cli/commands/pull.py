"""`forwardpass pull`."""

from pathlib import Path
from typing import Annotated

import typer


def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="The model: mlflow:NAME@ALIAS, mlflow:NAME/VERSION, hf:OWNER/REPO@COMMIT, "
            "hf:OWNER/REPO/FILE.onnx@COMMIT, https://HOST/FILE.onnx#sha256=HEX, or a file in a "
            "store: s3://, gs://, az://, file://."
        ),
    ],
    repository: Annotated[
        Path, typer.Argument(help="The model repository to publish into.")
    ] = Path("models"),
    name: Annotated[
        str | None, typer.Option(help="Name of the model; the source's if left out.")
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version in the repository; the next free one if left out."),
    ] = None,
    max_model_bytes: Annotated[
        int,
        typer.Option(
            min=1024, max=2**31 - 1, help="Maximum size of the model with its external data."
        ),
    ] = 2**29,
    general_models: Annotated[
        bool,
        typer.Option(
            "--general-models", help="Whether the server will have --general-models, too."
        ),
    ] = False,
) -> None:
    """Publish a model that others keep, once it is checked."""
    from forwardpass.cli.sources.pull import pull_model
    from forwardpass.server import Limits

    limits = Limits(max_file_bytes=max_model_bytes, general=general_models)
    pull_model(source, repository, name=name, version=version, limits=limits)
