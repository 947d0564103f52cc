"""A prediction as a file, or as text on stdout."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.replacing import replacing
from forwardpass.client import Prediction


def check_output(path: Path) -> None:
    """Raise UsageError for a file that `write_prediction` could not write."""
    if path.suffix not in (".csv", ".json", ".npy"):
        raise UsageError(f"--output: expected a .csv, .json or .npy file, got {path.name!r}")
    if not path.parent.is_dir():
        raise UsageError(f"--output: there is no directory {str(path.parent)!r}; make it first")


def write_prediction(
    prediction: Prediction, labels: Mapping[str, Sequence[str]], path: Path | None
) -> None:
    """Write the outputs to a file that appears whole or not at all; None: as CSV to stdout.

    CSV has a column for each label, `name.label`, or `name[i]` where there is none; .npy holds
    the one output. Raises CommandError for outputs that such a file cannot hold.
    """
    if path is None:
        _write_csv(prediction, labels, sys.stdout)
    elif path.suffix == ".npy":
        if len(prediction) != 1:
            raise CommandError(
                f"--output: a .npy file holds one array, the model answered "
                f"{', '.join(prediction)}; choose one with --select, or write .csv or .json"
            )
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, next(iter(prediction.values())), allow_pickle=False)
    else:
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                _write_csv(prediction, labels, file)
            else:
                _write_json(prediction, file)


def _write_csv(prediction: Prediction, labels: Mapping[str, Sequence[str]], file: TextIO) -> None:
    if len({array.shape[:1] for array in prediction.values()}) != 1 or any(
        array.ndim == 0 for array in prediction.values()
    ):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in prediction.items())
        raise CommandError(
            f"CSV needs outputs of equally many rows, the model answered {shapes}; "
            "choose one with --select, or write .json with --output"
        )
    header: list[str] = []
    blocks = []
    for name, array in prediction.items():
        block = array.reshape(len(array), int(np.prod(array.shape[1:])))
        header += _headings(name, block.shape[1], labels.get(name, ()))
        blocks.append(_plain(block))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(np.concatenate(blocks, axis=1).tolist())


def _headings(name: str, width: int, labels: Sequence[str]) -> list[str]:
    if len(labels) == width:
        return [f"{name}.{label}" for label in labels]
    return [name] if width == 1 else [f"{name}[{i}]" for i in range(width)]


def _write_json(prediction: Prediction, file: TextIO) -> None:
    outputs = {}
    for name, array in prediction.items():
        cells = _plain(array)
        if array.dtype.kind == "f":
            # JSON has no NaN and no infinity.
            cells[~np.isfinite(array)] = None
        outputs[name] = cells.tolist()
    answer = {"model": prediction.model, "version": prediction.version, "outputs": outputs}
    json.dump(answer, file, allow_nan=False)
    file.write("\n")


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return Python's own numbers and texts, as an array of objects."""
    if array.dtype == object:
        texts = np.empty(array.shape, object)
        texts.ravel()[:] = [cell.decode("utf-8", "replace") for cell in array.ravel()]
        return texts
    if array.dtype.kind == "f":
        # The shortest digits that read back as the same number of this precision.
        return array.astype(str).astype(np.float64).astype(object)
    return array.astype(object)
