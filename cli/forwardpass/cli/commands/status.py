"""`forwardpass status`."""

from typing import Annotated

import typer

from forwardpass.cli.options.connection import (
    DEFAULT_TARGET,
    Connection,
    Place,
    Target,
    connects,
    target_of,
)


@connects
def status(
    context: typer.Context,
    connection: Connection,
    place: Place = None,
    target: Target = DEFAULT_TARGET,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Name of a model to show; may be repeated. All listed if left out."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Whether to look again and again, until Ctrl-C.")
    ] = False,
    every_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")
    ] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whether each look is a line of JSON, for programs.")
    ] = False,
) -> None:
    """Show a server's models: versions, states, calls, rows and times."""
    from forwardpass.cli.calling.status import show_status

    with connection.client(target_of(context, place, target) or DEFAULT_TARGET) as client:
        show_status(client, model or (), every_s=every_s if watch else None, as_json=as_json)
