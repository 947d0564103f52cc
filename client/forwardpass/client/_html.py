"""A prediction as a small HTML table, for notebooks: the first rows and columns of each output."""

from collections.abc import Iterator, Mapping
from html import escape
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import format_shape
from forwardpass.proto.verdicts import column_labels, labels_of_rows, labels_that_hold, verdict_kind

_ROWS = 10
_COLUMNS = 8
"""Maximum columns of one output."""
_LETTERS = 40
"""Maximum characters of a name or of a cell."""
_UNNAMED = ColumnNames()


class _Block(NamedTuple):
    """One output in the table."""

    name: str
    about: str
    """The dtype and shape of the output."""
    headings: list[str]
    """Headings of the columns that are shown."""
    cells: NDArray[Any]
    """The values that are shown (rows, columns)."""
    verdicts: list[str]
    """The verdict of each row that is shown; empty if the output has none."""
    rows: int
    columns: int
    """Number of columns, shown or not."""


def prediction_table(
    model: str,
    version: str,
    outputs: Mapping[str, NDArray[Any]],
    names: Mapping[str, ColumnNames],
) -> str:
    """Return HTML: outputs side by side, a row of the table for each index of their first axis.

    If every array has at most one axis, each is one row. names: labels and units of the outputs
    that have them. A line below the table counts what is left out.
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
        _verdicts(name, table[:_ROWS], names) if table.ndim == 2 else [],
        rows,
        columns,
    )


def _verdicts(name: str, rows: NDArray[Any], names: ColumnNames) -> list[str]:
    match verdict_kind(names, rows.shape[1]):
        case "label":
            return [label or "" for label in labels_of_rows(name, rows, names)]
        case "labels":
            held = labels_that_hold(name, rows, names)
            return ["" if labels is None else "; ".join(labels) or "(none)" for labels in held]
        case _:
            return []


def _heading(index: int, shape: tuple[int, ...], names: ColumnNames) -> str:
    """Return the heading of a column: its label and unit, else its index."""
    width = prod(shape)
    labels = column_labels(names.labels, width)
    if labels:
        name = labels[index]
    else:
        name = ", ".join(map(str, np.unravel_index(index, shape))) if width > 1 else ""
    unit = names.units[index] if len(names.units) == width else ""
    return " ".join(filter(None, (name, unit and f"({unit})")))


def _name(block: _Block) -> str:
    span = len(_padded(block, block.headings, "label"))
    return (
        f'<th colspan="{span}" style="text-align: left">{_text(block.name)} '
        f'<span style="font-weight: normal">{block.about}</span></th>'
    )


def _headings(block: _Block) -> str:
    headings = _padded(block, block.headings, "label")
    return "".join(f"<th>{_text(heading)}</th>" for heading in headings)


def _rows(blocks: list[_Block]) -> Iterator[str]:
    for row in range(max((len(block.cells) for block in blocks), default=0)):
        cells = []
        for block in blocks:
            # An output that has fewer rows than another gets empty cells.
            texts = [_value(cell) for cell in block.cells[row]] if row < len(block.cells) else []
            verdict = block.verdicts[row] if row < len(block.verdicts) else ""
            width = len(_padded(block, block.headings, ""))
            cells += _padded(block, texts, verdict) if texts else [""] * width
        yield f"<tr><th>{row}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def _padded(block: _Block, texts: list[str], verdict: str) -> list[str]:
    """Add cells: for the columns that are left out, or an output without any; for a verdict."""
    more = ["\N{HORIZONTAL ELLIPSIS}"] if block.columns > len(block.headings) else []
    return [*(texts or [""]), *more, *([verdict] if block.verdicts else [])]


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
    """Escape a name, a label or a value, cut to the maximum length."""
    return escape(
        text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
