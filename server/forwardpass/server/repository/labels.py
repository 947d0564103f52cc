"""Version labels: names such as `stable` and `canary` that replace a version in a request.

`labels.json` in a model's folder lists their versions: {"stable": 2, "canary": 3}. Replacing the
file moves them while the server runs.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from forwardpass.server.repository.sidecar import SidecarError, read_sidecar

LABELS_FILE = "labels.json"

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_MAX_BYTES = 2**16


class LabelsError(Exception):
    """A labels file that is not valid."""


def read_labels(path: Path, root: Path) -> dict[str, int]:
    """Read a labels file under the folder `root`, label -> version; without a file there is none.

    Raises LabelsError.
    """
    if not _may_exist(path):
        return {}
    try:
        text = read_sidecar(path, root, _MAX_BYTES)
    except SidecarError as error:
        raise LabelsError(str(error)) from error
    if text is None:
        return {}
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


def _may_exist(path: Path) -> bool:
    # Not Path.exists, which reports a file that may not be examined as missing.
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def resolve(
    wanted: Mapping[str, int], before: Mapping[str, int], answering: Collection[int]
) -> dict[str, int]:
    """Return the version of each label now.

    A label moves to its wanted version only once that answers; until then it keeps the version
    that it had before, as long as that still answers.
    """
    return {
        label: version
        if version in answering or before.get(label) not in answering
        else before[label]
        for label, version in wanted.items()
    }
