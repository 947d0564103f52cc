"""The rows of a file, as a model's input takes them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError, UsageError


def read_rows(path: Path, datatype: str, features: Sequence[str] = ()) -> NDArray[Any]:
    """Read a .npy array, or the numbers of a .csv file: (rows, columns).

    A first line of a .csv file that holds no number is its header. Where the model names its
    features, columns are taken by their names, in the model's order, and others left aside;
    without a header, or without names, columns are taken as they stand. An integer datatype
    takes whole numbers alone.

    Raises UsageError for another kind of file, CommandError that names the line and the column
    of what is no number, or the feature that no column is named after.
    """
    if path.suffix == ".npy":
        return _read_npy(path)
    if path.suffix == ".csv":
        return _read_csv(path, datatype, features)
    raise UsageError(f"{path.name}: expected rows in a .csv or .npy file")


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise CommandError(f"{path}: not a NumPy array ({error})") from error
    return array


def _read_csv(path: Path, datatype: str, features: Sequence[str]) -> NDArray[Any]:
    lines = _lines(path)
    _, first = lines[0]
    header = None if any(map(_is_number, first)) else [cell.strip() for cell in first]
    columns = list(range(len(first)))
    if header is not None:
        lines = lines[1:]
        if features:
            columns = _columns(path, header, features)
    whole = "INT" in datatype
    rows = []
    for number, cells in lines:
        if len(cells) != len(first):
            raise CommandError(
                f"{path}: line {number}: expected {len(first)} columns, got {len(cells)}"
            )
        row = []
        for column in columns:
            try:
                row.append(int(cells[column]) if whole else float(cells[column]))
            except ValueError as error:
                name = column + 1 if header is None else repr(header[column])
                raise CommandError(
                    f"{path}: line {number}, column {name}: expected a "
                    f"{'whole ' if whole else ''}number, got {cells[column]!r}"
                ) from error
        rows.append(row)
    dtype = (np.uint64 if datatype.startswith("U") else np.int64) if whole else np.float64
    try:
        return np.array(rows, dtype).reshape(len(rows), len(columns))
    except OverflowError as error:
        raise CommandError(f"{path}: {error}, the input's datatype is {datatype}") from error


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of each line that is not empty, with the line's number."""
    try:
        # -sig: spreadsheets put a byte order mark in front.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if not lines:
        raise CommandError(f"{path}: expected rows of numbers, got an empty file")
    return lines


def _columns(path: Path, header: Sequence[str], features: Sequence[str]) -> list[int]:
    for name in features:
        if header.count(name) != 1:
            raise CommandError(
                f"{path}: expected one column for each of the model's {len(features)} features, "
                f"got {header.count(name)} named {name!r}; name the columns as `inspect` shows "
                "them, or leave the header out"
            )
    return [header.index(name) for name in features]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
