"""`forwardpass demo`."""

from typing import Annotated

import typer


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Whether the server stays up until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one.")] = 0,
) -> None:
    """Export the example networks, serve them, predict held-out rows."""
    from forwardpass.cli.demo import run_demo

    run_demo(keep=keep, port=port)
