"""`forwardpass draw`."""

from pathlib import Path
from typing import Any

import typer
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.export import find_network
from forwardpass.cli.replacing import replacing
from forwardpass.cli.rows import read_rows
from forwardpass.models import Network
from forwardpass.proto.spec import TensorSpec


def draw_network(source: str, to: Path | None, row: str | None) -> None:
    """Write the picture of a network, on stdout if `to` is None.

    source is what `export` takes without options. row is what fills the neurons: numbers with
    commas between them, or a .csv or .npy file, whose first row it is.

    Raises UsageError for options that cannot be followed, CommandError for a file without a
    row, and what reading the network and computing it raise.
    """
    if to is not None:
        _check(to)
    network = find_network(source)
    svg = network.to_svg(None if row is None else _read(row, network))
    if to is None:
        typer.echo(svg, nl=False)
        return
    with replacing(to) as part:
        part.write_text(svg, encoding="utf-8")
    typer.echo(f"wrote {to} ({to.stat().st_size:,} bytes)")


def _check(to: Path) -> None:
    if to.suffix != ".svg":
        raise UsageError(f"--output: expected a .svg file, got {to.name!r}")
    if not to.parent.is_dir():
        raise UsageError(f"--output: there is no directory {str(to.parent)!r}; make it first")


def _read(row: str, network: Network) -> NDArray[Any] | list[float]:
    if row.endswith((".csv", ".npy")):
        spec = TensorSpec(network.input.name, "FP32", (-1, network.input.size))
        rows = read_rows(Path(row), spec, network.input.features)
        if not len(rows):
            raise CommandError(f"{row}: expected a row, got none")
        first: NDArray[Any] = rows[0]
        return first
    try:
        return [float(number) for number in row.split(",")]
    except ValueError as error:
        raise UsageError(
            "--row: expected numbers with commas between them, as in 1,2.5,-3, or a .csv or .npy "
            f"file, got {row!r}"
        ) from error
