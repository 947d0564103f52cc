"""`forwardpass ui`."""

from pathlib import Path
from typing import Annotated

import typer


def ui(
    path: Annotated[Path, typer.Argument(help="A .onnx file, or a repository.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port of the page; 0 picks a free one.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Whether the address is only printed.")
    ] = False,
) -> None:
    """Show models in a browser, on this machine alone, until Ctrl-C."""
    from forwardpass.cli.serving.ui import show_page

    show_page(path, port, browse=not no_browser)
