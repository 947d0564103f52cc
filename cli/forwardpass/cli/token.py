"""`forwardpass token`."""

from collections.abc import Sequence

import typer

from forwardpass.cli.errors import UsageError
from forwardpass.server.caller import Action
from forwardpass.server.tokens import TokensError, new_token


def make_token(name: str, models: Sequence[str], calls: Sequence[str]) -> None:
    """Make a token; print it on stderr and its line on stdout, to be appended to the file."""
    try:
        made = new_token(name, models, [Action(call) for call in calls])
    except (ValueError, TokensError) as error:
        raise UsageError(str(error)) from error
    typer.echo(f"token, shown this once: {made.token}", err=True)
    typer.echo(made.line)
