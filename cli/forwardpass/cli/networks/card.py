"""`forwardpass card`."""

from pathlib import Path

import typer

from forwardpass.cli.replacing import check_output, replacing
from forwardpass.models.file.card import card


def write_card(source: Path, to: Path | None, *, overwrite: bool) -> None:
    """Write the model card of a file, on stdout if `to` is None.

    overwrite: Whether a file that exists is replaced.

    Raises UsageError and CommandError for an output that cannot be written, and what reading the
    file raises.
    """
    if to is not None:
        check_output(to, overwrite=overwrite)
    text = card(source)
    if to is None:
        typer.echo(text, nl=False)
        return
    with replacing(to) as part:
        part.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {to}")
