"""Networks by the text that names them: an example, a file, or an object of a Python module."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forwardpass.cli.errors import CommandError
from forwardpass.cli.networks.files import KINDS, NO_OPTIONS, FileOptions, is_file, read_network
from forwardpass.models import Network
from forwardpass.models.zoo import ZOO


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
    with _reported_in_one_line(source):
        found = getattr(_load_file(Path(place)) if place.endswith(".py") else _load(place), name)
        network = found() if callable(found) and not isinstance(found, Network) else found
    if not isinstance(network, Network):
        raise CommandError(
            f"{source!r}: expected a Network or a function that returns one, "
            f"got {type(network).__name__}"
        )
    return network


def _load(name: str) -> object:
    # Like `python -m`: modules in the working directory can be imported.
    sys.path.insert(0, "")
    return importlib.import_module(name)


def _load_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CommandError(f"{path}: no such file")
    # Like `python FILE.py`: modules beside the file can be imported.
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _reported_in_one_line(source: str) -> Iterator[None]:
    """Report an exception of the user's own code with the line of that code that raised it."""
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
