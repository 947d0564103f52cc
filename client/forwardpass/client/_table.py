"""A prediction as columns with a value for each row, for the tables of other libraries."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, make_dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import format_shape
from forwardpass.proto.verdicts import (
    column_headings,
    labels_of_rows,
    labels_that_hold,
    verdict_kind,
)

if TYPE_CHECKING:
    from pandas import DataFrame


def table_of_rows(
    outputs: Mapping[str, NDArray[Any]],
    names: Mapping[str, ColumnNames],
    *,
    single_row: bool,
    labels: bool,
) -> dict[str, Any]:
    """Return each column of each output by its heading, and the verdicts by the outputs' names.

    single_row: Whether the outputs have no row axis.

    Raises ValueError for outputs that do not have a value for each row, and for equal headings.
    """
    table: dict[str, Any] = {}
    rows: int | None = None
    for name, array in outputs.items():
        of_rows = array[np.newaxis] if single_row else array
        if not of_rows.ndim or len(of_rows) != (rows := len(of_rows) if rows is None else rows):
            each = "each row" if rows is None else f"each of {rows} rows"
            raise ValueError(
                f"output {name!r}: expected a value for {each}, got shape "
                f"{format_shape(array.shape)}; make the table from the outputs that have rows"
            )
        block = of_rows.reshape(len(of_rows), prod(of_rows.shape[1:]))
        about = names.get(name, ColumnNames())
        columns: dict[str, Any] = dict(
            zip(column_headings(name, about.labels, block.shape[1]), block.T, strict=True)
        )
        kind = verdict_kind(about, block.shape[1]) if labels and of_rows.ndim == 2 else None
        if kind is not None:
            decide = labels_of_rows if kind == "label" else labels_that_hold
            columns[name] = decide(name, of_rows, about)
        for heading in columns:
            if heading in table:
                raise ValueError(
                    f"output {name!r}: expected columns with unique names, got {heading!r} "
                    "twice; make the table from one of the outputs"
                )
        table |= columns
    return table


def as_frame(table: Mapping[str, Any], texts: Collection[str], index: Any) -> "DataFrame":
    """Return a table as a DataFrame.

    texts: names of outputs whose verdict is one label. index: the labels of the rows; None for
    their numbers. They are left out if the model answers another number of rows than it was given.
    """
    import pandas

    # Of no rows, or of rows without a verdict, pandas does not see that they are texts.
    text = pandas.Series([""]).dtype
    columns = {
        name: pandas.Series(column, dtype=text if name in texts else object)
        if isinstance(column, list)
        else column
        for name, column in table.items()
    }
    frame = pandas.DataFrame(columns)
    if index is not None and len(index) == len(frame):
        frame.index = index
    return frame


def records_of_rows(table: Mapping[str, Sequence[Any]]) -> NDArray[np.object_]:
    """Return a table's rows (k,) as instances of a dataclass whose fields are its columns.

    pandas makes a DataFrame with these names of it.
    """
    row_type = make_dataclass("Row", [f"column_{number}" for number in range(len(table))])
    for place, name in zip(fields(row_type), table, strict=True):
        # `make_dataclass` takes identifiers alone, and headings are `risk.low` or `y[0]`.
        place.name = name
    columns = list(table.values())
    rows = np.empty(len(columns[0]) if columns else 0, object)
    for number in range(len(rows)):
        row: Any = object.__new__(row_type)
        vars(row).update({name: column[number] for name, column in table.items()})
        rows[number] = row
    return rows
