"""Options that are made when their command is run."""

from typing import Any

import typer
from typer.core import TyperCommand


class LateCommand(TyperCommand):
    """A command whose function has no arguments and returns the function that has the options.

    For options that another module defines: it is not imported to run other commands.
    """

    def get_params(self, ctx: Any) -> Any:
        """Return the options; they are made at the first call."""
        if not self.params and self.callback is not None:
            alone = typer.Typer(add_completion=False)
            alone.command()(self.callback())
            made = typer.main.get_command(alone)
            self.params, self.callback = made.params, made.callback
        return super().get_params(ctx)
