"""`forwardpass token`."""

from collections.abc import Sequence

import typer

from forwardpass.cli.errors import UsageError
from forwardpass.server import TokensError
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token


def make_token(
    name: str, models: Sequence[str], calls: Sequence[str], **limits: float | str | None
) -> None:
    """Make a token; print it on stderr and its line on stdout, to be appended to the file."""
    kinds = [kind.value for kind in Action]
    unknown = [call for call in calls if call not in kinds]
    if unknown:
        raise UsageError(f"--calls: expected {', '.join(kinds)}, got {unknown[0]!r}")
    try:
        made = new_token(name, models, [Action(call) for call in calls], **limits)
    except (ValueError, TokensError) as error:
        raise UsageError(str(error)) from error
    typer.echo(f"token, shown this once: {made.token}", err=True)
    typer.echo(made.line)
