"""Version labels: names such as `stable` and `canary` that stand for a version in a request.

`labels.json` in a model's folder says which: {"stable": 2, "canary": 3}. Replacing the file
moves them while the server runs.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

LABELS_FILE = "labels.json"

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_MAX_BYTES = 2**16


class LabelsError(Exception):
    """A labels file that is not of that form."""


def read_labels(path: Path, root: Path) -> dict[str, int]:
    """Read a labels file under the folder `root`, label -> version; no file is no labels.

    Raises LabelsError.
    """
    if not _lies_in(path, root):
        # Its faults are told, and with them what stands in another file.
        raise LabelsError(f"{path.name} is a link that leads out of the folder that is served")
    try:
        with open(path, "rb", opener=_open) as file:
            text = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise LabelsError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise LabelsError(f"{path.name}: expected at most {_MAX_BYTES} bytes, got more")
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(labels, dict):
        raise LabelsError(
            f'{path.name}: expected an object as in {{"stable": 2}}, got {type(labels).__name__}'
        )
    for label, version in labels.items():
        if not _LABEL.fullmatch(label):
            raise LabelsError(
                f"{path.name}: expected a label of at most 63 letters, digits, '_', '.' and '-' "
                f"that begins with a letter, got {label[:80]!r}"
            )
        # JSON's true is an int to Python.
        if type(version) is not int or version < 1:
            raise LabelsError(f"{path.name}: {label!r}: expected a version, got {version!r}")
    return labels


def _lies_in(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        # A circle of links leads nowhere: opening it tells.
        return True


def _open(path: str, flags: int) -> int:
    # A FIFO would wait for its writer, and with it every model.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def resolve(
    wanted: Mapping[str, int], before: Mapping[str, int], answering: Collection[int]
) -> dict[str, int]:
    """Return what each wanted label stands for now.

    A label moves to a version only once that answers; until then it stays where it was before,
    as long as that still answers.
    """
    return {
        label: version
        if version in answering or before.get(label) not in answering
        else before[label]
        for label, version in wanted.items()
    }
