"""A prediction as a small HTML table, for notebooks: the first rows and columns of each output."""

from collections.abc import Iterator, Mapping
from html import escape
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import format_shape

_ROWS = 10
_COLUMNS = 8
"""Most columns of one output."""
_LETTERS = 40
"""Most letters of a name or of a cell."""
_UNNAMED = ColumnNames()


class _Block(NamedTuple):
    """One output as it stands in the table."""

    name: str
    about: str
    """Its dtype and shape."""
    headings: list[str]
    """One a column that is shown."""
    cells: NDArray[Any]
    """(rows, columns) that are shown."""
    rows: int
    columns: int
    """How many there are, shown or not."""


def prediction_table(
    model: str,
    version: str,
    outputs: Mapping[str, NDArray[Any]],
    names: Mapping[str, ColumnNames],
) -> str:
    """Return HTML: outputs side by side, a row of the table for each index of their first axis.

    Where every array has one axis at most, each is one row. names: labels and units of the
    outputs that have them. What is left out is told below the table.
    """
    title = f"{model} version {version}" if version else model
    by_row = any(array.ndim > 1 for array in outputs.values())
    blocks = [
        _block(name, array, names.get(name, _UNNAMED), by_row=by_row)
        for name, array in outputs.items()
    ]
    return "\n".join(
        [
            "<table>",
            f'<caption style="text-align: left">{escape(title)}</caption>',
            "<thead>",
            f"<tr><th></th>{''.join(map(_name, blocks))}</tr>",
            f"<tr><th></th>{''.join(map(_headings, blocks))}</tr>",
            "</thead>",
            "<tbody>",
            *_rows(blocks),
            "</tbody>",
            "</table>",
            *(f"<p>{escape(note)}</p>" for note in _left_out(blocks)),
        ]
    )


def _block(name: str, array: NDArray[Any], names: ColumnNames, *, by_row: bool) -> _Block:
    table = array if array.ndim and by_row else array[np.newaxis]
    rows, inner = len(table), table.shape[1:]
    columns = prod(inner)
    dtype = "bytes" if array.dtype == object else array.dtype.name
    return _Block(
        name,
        f"{dtype}{format_shape(array.shape)}",
        [_heading(index, inner, names) for index in range(min(columns, _COLUMNS))],
        table[:_ROWS].reshape(min(rows, _ROWS), columns)[:, :_COLUMNS],
        rows,
        columns,
    )


def _heading(index: int, shape: tuple[int, ...], names: ColumnNames) -> str:
    """Return what a column is called: by its label and unit, else by its place."""
    width = prod(shape)
    if len(names.labels) == width:
        name = names.labels[index]
    else:
        name = ", ".join(map(str, np.unravel_index(index, shape))) if width > 1 else ""
    unit = names.units[index] if len(names.units) == width else ""
    return " ".join(filter(None, (name, unit and f"({unit})")))


def _name(block: _Block) -> str:
    span = len(block.headings) + (block.columns > len(block.headings))
    return (
        f'<th colspan="{span or 1}" style="text-align: left">{_text(block.name)} '
        f'<span style="font-weight: normal">{block.about}</span></th>'
    )


def _headings(block: _Block) -> str:
    return "".join(f"<th>{_text(heading)}</th>" for heading in _padded(block, block.headings))


def _rows(blocks: list[_Block]) -> Iterator[str]:
    for row in range(max((len(block.cells) for block in blocks), default=0)):
        cells = []
        for block in blocks:
            # One that has fewer rows than another leaves its place empty.
            texts = [_value(cell) for cell in block.cells[row]] if row < len(block.cells) else []
            cells += _padded(block, texts) if texts else [""] * len(_padded(block, block.headings))
        yield f"<tr><th>{row}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def _padded(block: _Block, texts: list[str]) -> list[str]:
    """Add a cell for the columns that are left out, or for an output without any."""
    if block.columns > len(block.headings):
        return [*texts, "\N{HORIZONTAL ELLIPSIS}"]
    return texts or [""]


def _left_out(blocks: list[_Block]) -> Iterator[str]:
    for block in blocks:
        shown = len(block.headings)
        parts = [
            f"first {count} of {there:,} {what}"
            for count, there, what in (
                (len(block.cells), block.rows, "rows"),
                (shown, block.columns, "columns"),
            )
            if there > count
        ]
        if parts:
            yield f"{block.name}: {', '.join(parts)}"


def _value(cell: Any) -> str:
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    return f"{cell:.6g}" if isinstance(cell, np.floating) else str(cell)


def _text(text: str) -> str:
    """Escape a name, a label or a value, cut to what a table takes."""
    return escape(
        text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
