"""Models and versions on disk: what a path offers to serve."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

MODEL_FILE = "model.onnx"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class RepositoryError(Exception):
    """A path that offers no model."""


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """One version of one model on disk."""

    name: str
    version: int
    path: Path


def find_models(path: Path) -> list[ModelFile]:
    """List what can be served at a path, sorted by name and version.

    The path is a `.onnx` file (its stem is the name, its version 1), a directory of such
    files, a repository `NAME/VERSION/model.onnx`, or a directory that holds both.

    Raises RepositoryError if the path does not exist or holds nothing of the kind.
    """
    if path.is_file():
        found = [ModelFile(path.stem, 1, path)] if path.suffix == ".onnx" else []
    elif path.is_dir():
        found = sorted(_in_directory(path))
    else:
        raise RepositoryError(f"{path}: no such file or directory")
    if not found:
        raise RepositoryError(
            f"{path}: expected a .onnx file, a directory of them, or NAME/VERSION/{MODEL_FILE}; "
            "found none"
        )
    for one, other in pairwise(found):
        if (one.name, one.version) == (other.name, other.version):
            raise RepositoryError(
                f"{one.path} and {other.path} both are version {one.version} of model "
                f"{one.name!r}; rename one"
            )
    return found


def _in_directory(path: Path) -> Iterator[ModelFile]:
    for entry in path.iterdir():
        # A dot in front marks what is still being written.
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            for version in entry.iterdir():
                if _VERSION.fullmatch(version.name) and (version / MODEL_FILE).is_file():
                    yield ModelFile(entry.name, int(version.name), version / MODEL_FILE)
        elif entry.suffix == ".onnx":
            yield ModelFile(entry.stem, 1, entry)
