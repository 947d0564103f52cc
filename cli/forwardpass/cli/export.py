"""`forwardpass export`."""

import importlib
import importlib.util
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardpass.cli.errors import CommandError
from forwardpass.models import Network, Proof, export, publish
from forwardpass.models.zoo import ZOO


def export_network(source: str, to: Path, *, version: int | None, overwrite: bool) -> None:
    """Export what `source` names: to a file if `to` ends in .onnx, else into a repository.

    Raises CommandError if there is no network of that name, and what export and publish do.
    """
    network = find_network(source)
    if to.suffix == ".onnx":
        if version is not None:
            raise CommandError(
                f"--version: {to} is a single file; versions belong to a repository (a directory)"
            )
        proof = export(network, to, overwrite=overwrite)
        path = to
    else:
        published = publish(network, to, version=version, overwrite=overwrite)
        path, proof = published.path, published.proof
    console = Console()
    console.print(proof_table(proof))
    console.print(f"wrote {path} ({path.stat().st_size:,} bytes)", highlight=False)


def proof_table(proof: Proof) -> Table:
    """Show the largest differences that the proof found."""
    table = Table(
        "output",
        "largest error",
        "relative to the largest answer",
        "bound",
        title=f"graph on {proof.runtime} against float64, {proof.rows} rows",
    )
    for name, output in proof.outputs.items():
        table.add_row(
            Text(name),
            f"{output.largest_error:.2e}",
            f"{output.relative_error:.2e}",
            f"{output.largest_bound:.2e}",
        )
    return table


def find_network(source: str) -> Network:
    """Return the network that `source` names: an example, MODULE:NAME or FILE.py:NAME."""
    if source in ZOO:
        return ZOO[source].network()
    module_name, colon, name = source.rpartition(":")
    if not colon:
        raise CommandError(
            f"{source!r}: expected one of {', '.join(ZOO)}, or MODULE:NAME, or FILE.py:NAME"
        )
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _load(module_name)
    found = getattr(module, name, None)
    if found is None:
        raise CommandError(f"{source!r}: {module_name} has no {name!r}")
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
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise CommandError(f"{name}: {error}") from error


def _load_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CommandError(f"{path}: no such file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
