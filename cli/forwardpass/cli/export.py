"""`forwardpass export`."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
from forwardpass.models import ModelExistsError, Network, Proof, export, publish
from forwardpass.models.zoo import ZOO


def export_network(
    source: str,
    to: Path,
    *,
    name: str | None,
    version: int | None,
    overwrite: bool,
    options: FileOptions,
) -> None:
    """Export what `source` names: to a file if `to` ends in .onnx, else into a repository.

    name is the model's, None leaves it as it is. Raises CommandError if there is no network of
    that name, and what the importers, export and publish do.
    """
    check_options(source, options)
    network = find_network(source, options)
    if name is not None:
        network = replace(network, name=name)
    try:
        if to.suffix == ".onnx":
            if version is not None:
                raise UsageError(
                    f"--version: {to} is a single file; versions belong to a repository "
                    "(a directory)"
                )
            path, proof = to, export(network, to, overwrite=overwrite)
        else:
            published = publish(network, to, version=version, overwrite=overwrite)
            path, proof = published.path, published.proof
    except ModelExistsError as error:
        raise CommandError(f"{error.path} exists already; --overwrite replaces it") from error
    console = Console()
    console.print(proof_table(proof))
    console.print(Text(f"wrote {path} ({path.stat().st_size:,} bytes)"))


def proof_table(proof: Proof) -> Table:
    """Show the largest differences that the proof found."""
    table = Table(
        "output",
        "largest error",
        "relative to the largest answer",
        "bound",
        title=f"proven: {proof.runtime} against float64, {proof.rows} rows",
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
