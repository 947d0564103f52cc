"""`forwardpass draw`."""

import json
from pathlib import Path
from typing import Any

import typer
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.networks.source import find_network
from forwardpass.cli.replacing import check_output, replacing
from forwardpass.cli.rows import read_rows
from forwardpass.models import Input, Network
from forwardpass.proto.spec import TensorSpec


def draw_network(source: str, to: Path | None, row: str | None, *, overwrite: bool) -> None:
    """Write the picture of a network, on stdout if `to` is None.

    source is what `export` takes without options. row is what fills the neurons: numbers with
    commas between them, a JSON object of values by column, or a .csv or .npy file, whose first row
    it is. overwrite: Whether a file
    that exists is replaced.

    Raises UsageError for options that cannot be followed, CommandError for an output that exists
    and for a file without a row, and what reading the network and computing it raise.
    """
    if to is not None:
        _check(to, overwrite)
    network = find_network(source)
    svg = network.to_svg(None if row is None else _read(row, network))
    if to is None:
        typer.echo(svg, nl=False)
        return
    with replacing(to) as part:
        part.write_text(svg, encoding="utf-8")
    typer.echo(f"wrote {to} ({to.stat().st_size:,} bytes)")


def _check(to: Path, overwrite: bool) -> None:
    if to.suffix != ".svg":
        raise UsageError(f"--output: expected a .svg file, got {to.name!r}")
    check_output(to, overwrite=overwrite)


def _read(row: str, network: Network) -> NDArray[Any] | list[float] | dict[str, Any]:
    if row.lstrip().startswith("{"):
        try:
            columns: dict[str, Any] = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--row: expected a JSON object, got {row!r:.60} ({error})") from error
        return columns
    if not isinstance(network.inputs[0], Input) or len(network.inputs) > 1:
        names = ", ".join(repr(source.name) for source in network.inputs)
        raise UsageError(
            "--row: expected a JSON object of values by column, as in '{\"age\": 3}', for the "
            f"inputs {names}, got {row!r:.60}"
        )
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
