"""The table of what is served, drawn without rich: its import takes as long as loading a model."""

import shutil
from collections.abc import Sequence

_LEAST = 8
"""Minimum width of a column that is made narrower, in characters."""


def draw(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as wide as its texts, or as the terminal, with texts wrapped."""
    texts = [[_printable(text).splitlines() or [""] for text in row] for row in (head, *rows)]
    widths = [
        max(len(line) for cell in column for line in cell) for column in zip(*texts, strict=True)
    ]
    # A border to the left of each column, one at the end, and a space on both sides of a text.
    room = shutil.get_terminal_size().columns - 3 * len(head) - 1
    while sum(widths) > room and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        widths[widest] = max(_LEAST, widths[widest] - (sum(widths) - room))
    lines = [_row(cells, widths) for cells in texts]
    full = sum(widths) + 3 * len(widths) + 1
    return "\n".join(
        (
            title.center(full).rstrip(),
            _rule("┌┬┐", widths),
            *lines[0],
            _rule("├┼┤", widths),
            *(line for row in lines[1:] for line in row),
            _rule("└┴┘", widths),
        )
    )


def _printable(text: str) -> str:
    """Return a text that a terminal does not take for commands."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def _rule(ends: str, widths: Sequence[int]) -> str:
    return ends[0] + ends[1].join("─" * (width + 2) for width in widths) + ends[2]


def _row(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    wrapped = [
        [part for line in cell for part in _wrapped(line, width)]
        for cell, width in zip(cells, widths, strict=True)
    ]
    height = max(map(len, wrapped))
    padded = [
        [line.ljust(width) for line in (*lines, *[""] * (height - len(lines)))]
        for lines, width in zip(wrapped, widths, strict=True)
    ]
    return ["│ " + " │ ".join(line) + " │" for line in zip(*padded, strict=True)]


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    # Imported here: most lines fit.
    from textwrap import wrap

    return wrap(line, width)
