"""A prediction -> columns with a value for each row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.client import Prediction
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.verdicts import column_headings, verdict_kind

Table = Mapping[str, NDArray[Any] | Sequence[Any]]
"""Values of each row by column: arrays of numbers, or sequences of texts, lists or other values."""


class LabelsOfRows(list[list[str] | None]):
    """A column of the labels that apply to each row; None if that is not known."""


def tabulate(
    prediction: Prediction, rows: int, kept: Mapping[str, Sequence[Any]], *, labels: bool
) -> Table:
    """Return the columns that were kept, then for each output its columns and its labels.

    An output's columns are `name.label`, or `name[i]` where there is none. Where its columns are
    classes, labels adds `name`: the label of the row, or, where the model's file has a threshold
    for each of several, a list of those above theirs; None where the answer is NaN.

    Raises CommandError for outputs that do not have a value for each row, and for a column that
    is kept and has the name of another.
    """
    table: dict[str, NDArray[Any] | Sequence[Any]] = dict(kept)
    for name, array in prediction.items():
        if array.shape[:1] != (rows,):
            raise CommandError(
                f"output {name!r}: expected answers for {rows} rows, got shape "
                f"{list(array.shape)}; leave it out with --select, or call the model from Python"
            )
        names = prediction.columns.get(name, ColumnNames())
        for heading, column in _columns(name, array, prediction.headings(name)):
            _add(table, heading, column)
        kind = verdict_kind(names, array.shape[1]) if labels and array.ndim == 2 else None
        if kind == "labels":
            _add(table, name, LabelsOfRows(prediction.labels(name)))
        elif kind == "label":
            _add(table, name, prediction.label(name))
    return table


def _add(
    table: dict[str, NDArray[Any] | Sequence[Any]], name: str, column: NDArray[Any] | Sequence[Any]
) -> None:
    if name in table:
        raise CommandError(
            f"--keep: expected a column with another name than the model's outputs, got {name!r}; "
            "rename it in the file of rows"
        )
    table[name] = column


def _columns(
    name: str, array: NDArray[Any], labels: Sequence[str]
) -> list[tuple[str, NDArray[Any] | Sequence[Any]]]:
    block = array.reshape(len(array), int(np.prod(array.shape[1:])))
    width = block.shape[1]
    headings = column_headings(name, labels, width)
    if array.dtype != object:
        return list(zip(headings, block.T, strict=True))
    texts = [[cell.decode("utf-8", "replace") for cell in column] for column in block.T]
    return list(zip(headings, texts, strict=True))


def plain(column: NDArray[Any] | Sequence[Any]) -> Sequence[Any]:
    """Return Python's own numbers; a float has the shortest digits that read back as the same."""
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind == "f" and column.dtype != np.float64:
        column = column.astype(str).astype(np.float64)
    numbers: list[Any] = column.tolist()
    return numbers
