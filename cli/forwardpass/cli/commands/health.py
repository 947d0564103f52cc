"""`forwardpass health`."""

from typing import Annotated

import typer

from forwardpass.cli.options.connection import Place, Security, Target, connects, target_of


@connects
def health(
    context: typer.Context,
    connection: Security,
    place: Place = None,
    target: Target = None,
    port: Annotated[
        int,
        typer.Option(
            min=1,
            max=65535,
            help="Port of the server on this machine, where no target is given.",
            envvar="FORWARDPASS_PORT",
        ),
    ] = 8001,
    model: Annotated[
        str, typer.Option(help="Name of a model to ask for; the whole server if left out.")
    ] = "",
    timeout_s: Annotated[
        float, typer.Option(min=0.001, help="Deadline of the call, in seconds.")
    ] = 3.0,
) -> None:
    """Ask a server whether it serves; exit code 0 or 1."""
    from forwardpass.cli.calling.health import check_health

    chosen = target_of(context, place, target) or f"127.0.0.1:{port}"
    check_health(chosen, model, timeout_s=timeout_s, security=connection)
