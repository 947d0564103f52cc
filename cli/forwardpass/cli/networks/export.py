"""`forwardpass export`."""

import sys
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.networks.files import FileOptions, check_options
from forwardpass.cli.networks.source import find_network
from forwardpass.cli.rows import read_rows
from forwardpass.models import (
    ModelExistsError,
    Network,
    Proof,
    Quantized,
    export,
    expose,
    publish,
    quantize,
)
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.stores import StoreError, is_store


def export_network(
    source: str,
    to: str,
    *,
    options: FileOptions,
    name: str | None,
    version: int | None,
    overwrite: bool,
    exposed: str,
    int8: Path | None,
    max_loss: float | None,
) -> None:
    """Export the network that `source` names: to a file if `to` ends in .onnx, else a repository.

    name is the model's, None keeps it; an empty exposed adds no output; int8 None keeps float32.

    Raises CommandError if there is no network of that name, and the errors of the importers,
    export, publish, expose and quantize.
    """
    in_store = is_store(to)
    to_file = not in_store and Path(to).suffix == ".onnx"
    if to_file and version is not None:
        raise UsageError(
            f"--version: {to} is a single file; versions belong to a repository (a directory)"
        )
    if overwrite and version is None and not to_file:
        raise UsageError(
            "--overwrite: in a repository it replaces a version; say which with --version, or "
            "leave --overwrite out to write the next one"
        )
    if max_loss is not None and int8 is None:
        raise UsageError("--max-loss: only int8 loses anything; give its rows with --int8")
    check_options(source, options)
    network = find_network(source, options)
    if name is not None:
        network = replace(network, name=name)
    if exposed:
        network = expose(network, exposed)
    console = Console()
    chosen = network if int8 is None else _quantized(console, network, int8, max_loss)
    try:
        if to_file:
            path, proof = Path(to), export(chosen, to, overwrite=overwrite)
        else:
            published = publish(chosen, to, version=version, overwrite=overwrite)
            path, proof = published.path, published.proof
    except StoreError as error:
        raise CommandError(str(error)) from error
    except ModelExistsError as error:
        raise CommandError(f"{error.path} exists already; --overwrite replaces it") from error
    if int8 is None:
        console.print(proof_table(proof))
    if in_store:
        console.print(Text(f"wrote {published.url}"))
    else:
        console.print(Text(f"wrote {path} ({path.stat().st_size:,} bytes)"))


def _quantized(console: Console, network: Network, rows: Path, max_loss: float | None) -> Quantized:
    """Return the network in int8, once its loss was shown and accepted.

    Raises Int8LossError for a loss above the limit, CommandError if nobody accepts it.
    """
    spec = TensorSpec(network.input.name, "FP32", (-1, network.input.size))
    quantized = quantize(network, read_rows(rows, spec, network.input.features))
    console.print(proof_table(quantized.proof, f"int8, calibrated on {rows.name}"))
    console.print(f"loss: {quantized.loss:.3g} of the largest answer")
    if max_loss is None:
        if not (sys.stdin.isatty() and typer.confirm("write it?")):
            raise CommandError("not written; --max-loss says which loss to accept unasked")
    else:
        quantized.check(max_loss)
    return quantized


def proof_table(proof: Proof, what: str = "proven") -> Table:
    """Return a table of the largest differences that the proof found; what is its title."""
    table = Table(
        "output",
        "largest error",
        "relative to the largest answer",
        "bound",
        title=f"{what}: {proof.runtime} against float64, {proof.rows} rows",
    )
    for name, output in proof.outputs.items():
        table.add_row(
            Text(name),
            f"{output.largest_error:.2e}",
            f"{output.relative_error:.2e}",
            f"{output.largest_bound:.2e}",
        )
    return table
