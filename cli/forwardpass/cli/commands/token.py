"""`forwardpass token`."""

from typing import Annotated

import typer


def token(
    name: Annotated[str, typer.Argument(help="Name of its holder, for errors and logs.")],
    models: Annotated[
        str, typer.Option(help="Patterns of the models it is for, as in 'iris_*,digits'.")
    ] = "*",
    calls: Annotated[
        str, typer.Option(help="Kinds of call it is for: infer, read, control.")
    ] = "infer,read",
    calls_per_s: Annotated[
        float | None, typer.Option(help="Maximum calls a second; without it there is no maximum.")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(help="Maximum calls in flight; without it there is no maximum.")
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Its calls wait for interactive ones.")
    ] = False,
) -> None:
    """Make a bearer token, and its line for serve --tokens.

    The token is printed on stderr, only once; the line on stdout.
    """
    from forwardpass.cli.serving.token import make_token

    make_token(
        name,
        models.split(","),
        calls.split(","),
        calls_per_s=calls_per_s,
        max_in_flight=max_in_flight,
        priority="batch" if batch else None,
    )
