"""The commands, put together."""

import os
from typing import Annotated, NoReturn

import typer

from forwardpass.cli.commands.card import card
from forwardpass.cli.commands.demo import demo
from forwardpass.cli.commands.describe import describe as describe_file
from forwardpass.cli.commands.doctor import doctor
from forwardpass.cli.commands.draw import draw
from forwardpass.cli.commands.export import export
from forwardpass.cli.commands.health import health
from forwardpass.cli.commands.inspect import inspect
from forwardpass.cli.commands.predict import predict
from forwardpass.cli.commands.pull import pull
from forwardpass.cli.commands.serve import serve
from forwardpass.cli.commands.status import status
from forwardpass.cli.commands.token import token
from forwardpass.cli.commands.ui import ui
from forwardpass.cli.errors import CommandError, describe, is_expected
from forwardpass.cli.options.late import LateCommand
from forwardpass.cli.serving.service_links import leave_aside

app = typer.Typer(
    name="forwardpass",
    help="Define a feed-forward network, export it to ONNX with a proof, serve it, call it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# In the order of their help.
app.command()(export)
app.command()(pull)
app.command()(inspect)
app.command()(card)
app.command()(describe_file)
app.command()(draw)
app.command(cls=LateCommand)(serve)
app.command()(ui)
app.command()(token)
app.command()(predict)
app.command()(health)
app.command()(status)
app.command()(doctor)
app.command()(demo)


def run() -> NoReturn:
    """Run the command line; an expected error ends in one line on stderr and its exit code."""
    try:
        app()
    except Exception as error:
        fail(error)
    raise SystemExit(0)


def fail(error: Exception) -> NoReturn:
    """End with an expected error, in one line on stderr and its exit code; raise any other."""
    if not is_expected(error):
        raise error
    typer.secho(f"error: {describe(error)}", err=True, fg="red")
    raise SystemExit(error.exit_code if isinstance(error, CommandError) else 1) from None


def _version(wanted: bool) -> None:
    if wanted:
        from forwardpass.proto.version import __version__

        typer.echo(f"forwardpass {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version
    # Before the command's own options are read; the others have no setting of such a name.
    if context.invoked_subcommand in ("serve", "health"):
        leave_aside(os.environ)
