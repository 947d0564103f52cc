"""Files that appear whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forwardpass.cli.errors import CommandError, UsageError


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise UsageError if a file's directory is not there, CommandError if the file must not be."""
    if not path.parent.is_dir():
        raise UsageError(f"--output: there is no directory {str(path.parent)!r}; make it first")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists already; --overwrite replaces it, or name another file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write beside the path; it replaces the path when all is written."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)
