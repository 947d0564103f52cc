"""`forwardpass export`."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.network_files import (
    KINDS,
    NO_OPTIONS,
    FileOptions,
    check_options,
    is_file,
    read_network,
)
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
from forwardpass.models.zoo import ZOO
from forwardpass.proto.spec import TensorSpec


def export_network(
    source: str,
    to: Path,
    *,
    options: FileOptions,
    name: str | None,
    version: int | None,
    overwrite: bool,
    exposed: str,
    int8: Path | None,
    max_loss: float | None,
) -> None:
    """Export what `source` names: to a file if `to` ends in .onnx, else into a repository.

    name is the model's, None leaves it as it is; exposed empty adds no output; int8 None keeps
    float32.

    Raises CommandError if there is no network of that name, and what the importers, export,
    publish, expose and quantize do.
    """
    to_file = to.suffix == ".onnx"
    if to_file and version is not None:
        raise UsageError(
            f"--version: {to} is a single file; versions belong to a repository (a directory)"
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
            path, proof = to, export(chosen, to, overwrite=overwrite)
        else:
            published = publish(chosen, to, version=version, overwrite=overwrite)
            path, proof = published.path, published.proof
    except ModelExistsError as error:
        raise CommandError(f"{error.path} exists already; --overwrite replaces it") from error
    if int8 is None:
        console.print(proof_table(proof))
    console.print(Text(f"wrote {path} ({path.stat().st_size:,} bytes)"))


def _quantized(console: Console, network: Network, rows: Path, max_loss: float | None) -> Quantized:
    """Return the network in int8, once its loss was told and accepted.

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
    """Show the largest differences that the proof found, under what was done."""
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


def find_network(source: str, options: FileOptions = NO_OPTIONS) -> Network:
    """Return the network that `source` names: an example, a file, MODULE:NAME or FILE.py:NAME.

    Raises CommandError if there is none, or if the code that defines it fails.
    """
    if source in ZOO:
        return ZOO[source].network()
    if is_file(source):
        return read_network(Path(source), options)
    place, colon, name = source.rpartition(":")
    if not colon:
        raise CommandError(
            f"{source!r}: expected one of {', '.join(ZOO)}, or a file ({KINDS}), "
            "or MODULE:NAME, or FILE.py:NAME"
        )
    with _told_in_one_line(source):
        found = getattr(_load_file(Path(place)) if place.endswith(".py") else _load(place), name)
        network = found() if callable(found) and not isinstance(found, Network) else found
    if not isinstance(network, Network):
        raise CommandError(
            f"{source!r}: expected a Network or a function that returns one, "
            f"got {type(network).__name__}"
        )
    return network


def _load(name: str) -> object:
    # As `python -m` does: what lies in the working directory can be named.
    sys.path.insert(0, "")
    return importlib.import_module(name)


def _load_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CommandError(f"{path}: no such file")
    # As `python FILE.py` does: what lies beside the file can be imported.
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _told_in_one_line(source: str) -> Iterator[None]:
    """Tell an exception of the user's own code by the line of theirs that raised it."""
    try:
        yield
    except CommandError:
        raise
    except Exception as error:
        theirs = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if not frame.f_globals.get("__name__", "").startswith(("forwardpass.", "importlib."))
            and "site-packages" not in frame.f_code.co_filename
        ]
        where = "{}, line {}: ".format(*theirs[-1]) if theirs else ""
        raise CommandError(f"{source!r}: {where}{type(error).__name__}: {error}") from error
