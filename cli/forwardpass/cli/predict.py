"""`forwardpass predict`."""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.client import Client, Prediction
from forwardpass.proto import metadata


def predict_file(
    model: str,
    input_file: Path,
    output_file: Path | None,
    *,
    target: str,
    version: str,
    select: Sequence[str] | None,
    timeout_s: float,
    tls: bool,
    ca_file: Path | None,
) -> None:
    """Send the rows of a file, write the outputs.

    Raises CommandError for files that cannot be read or written as asked, ClientError for
    what the server or the check before it refuses.
    """
    if output_file is not None and output_file.suffix not in (".csv", ".json", ".npy"):
        raise CommandError(f"--output: expected .csv, .json or .npy, got {output_file.name!r}")
    with Client(
        target,
        tls=tls or ca_file is not None,
        ca_file=ca_file,
        timeout_s=timeout_s,
    ) as client:
        spec = client.metadata(model, version)
        features = _columns(spec.properties, metadata.INPUTS)
        header, x = read_rows(input_file)
        (first, *others) = spec.inputs
        if header is not None and not others:
            x = _in_order(header, x, features.get(first.name, ()), input_file)
        if x.ndim == len(first.shape) - 1:
            x = x[np.newaxis]
        prediction = client.predict(model, x, version=version, outputs=select or None)
    labels = _columns(spec.properties, metadata.OUTPUTS)
    write_prediction(prediction, labels, output_file)


def read_rows(path: Path) -> tuple[list[str] | None, NDArray[Any]]:
    """Read a .npy array, or a .csv file's numbers and its header, if it has one.

    Raises CommandError that names the line of a cell that is no number.
    """
    if path.suffix == ".npy":
        try:
            return None, np.load(path, allow_pickle=False)
        except ValueError as error:
            raise CommandError(f"{path}: not a NumPy array ({error})") from error
    if path.suffix != ".csv":
        raise CommandError(f"--input: expected .csv or .npy, got {path.name!r}")
    with path.open(newline="") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines:
        raise CommandError(f"{path}: expected rows of numbers, got none")
    header = None if _is_numbers(lines[0]) else [name.strip() for name in lines[0]]
    body = lines if header is None else lines[1:]
    rows = np.empty((len(body), len(lines[0])), np.float64)
    for index, line in enumerate(body):
        number = index + (1 if header is None else 2)
        if len(line) != len(lines[0]):
            raise CommandError(
                f"{path}: row {number}: expected {len(lines[0])} columns, got {len(line)}"
            )
        try:
            rows[index] = [float(cell) for cell in line]
        except ValueError as error:
            raise CommandError(f"{path}: row {number}: {error}") from error
    return header, rows


def write_prediction(
    prediction: Prediction, labels: dict[str, tuple[str, ...]], path: Path | None
) -> None:
    """Write the outputs: a column or a key for each label, `name[i]` where there is none."""
    if path is None:
        _write_csv(prediction, labels, sys.stdout)
    elif path.suffix == ".npy":
        if len(prediction) != 1:
            raise CommandError(
                f"--output: a .npy file holds one array, the model answered "
                f"{', '.join(prediction)}; choose one with --select, or write .csv or .json"
            )
        with _replacing(path) as part, part.open("wb") as file:
            np.save(file, next(iter(prediction.values())), allow_pickle=False)
    else:
        with _replacing(path) as part, part.open("w", newline="") as file:
            if path.suffix == ".csv":
                _write_csv(prediction, labels, file)
            else:
                rows = {name: _plain(array) for name, array in prediction.items()}
                json.dump(
                    {"model": prediction.model, "version": prediction.version, "outputs": rows},
                    file,
                )


def _is_numbers(cells: Sequence[str]) -> bool:
    try:
        for cell in cells:
            float(cell)
    except ValueError:
        return False
    return True


def _columns(properties: Any, key: str) -> dict[str, tuple[str, ...]]:
    columns = metadata.load_columns(key, properties.get(key, "{}"))
    return {name: column.labels for name, column in columns.items()}


def _in_order(
    header: Sequence[str], x: NDArray[Any], features: Sequence[str], path: Path
) -> NDArray[Any]:
    """Put the columns of a file into the model's order, by name where the model has names."""
    if not set(header) & set(features):
        return x
    missing = [name for name in features if name not in header]
    if missing:
        raise CommandError(f"{path}: column {missing[0]!r} of the model's features is missing")
    return x[:, [header.index(name) for name in features]]


def _write_csv(prediction: Prediction, labels: dict[str, tuple[str, ...]], file: TextIO) -> None:
    header: list[str] = []
    blocks: list[Any] = []
    for name, array in prediction.items():
        block = array.reshape(len(array), -1)
        named = labels.get(name, ())
        if block.shape[1] == 1 and not named:
            header.append(name)
        else:
            header.extend(
                f"{name}.{named[i]}" if named else f"{name}[{i}]" for i in range(block.shape[1])
            )
        blocks.append(_plain(block))
    writer = csv.writer(file)
    writer.writerow(header)
    for row in zip(*blocks, strict=True):
        writer.writerow([cell for part in row for cell in part])


def _plain(array: NDArray[Any]) -> Any:
    if array.dtype == object:
        return np.vectorize(lambda cell: cell.decode("utf-8", "replace"), otypes=[object])(
            array
        ).tolist()
    if array.dtype == np.float32:
        # The shortest text that reads back as the same float32.
        return np.vectorize(lambda cell: float(str(cell)), otypes=[object])(array).tolist()
    return array.tolist()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file to write beside the path; it takes the path's place when all is written."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)
