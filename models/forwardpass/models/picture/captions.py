"""The texts of a network's picture: headings of layers, features, answers, the legend."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.categorical import Categorical
from forwardpass.models.feeds import Rows
from forwardpass.models.picture.diagram import COLUMN, RADIUS, Block, Diagram
from forwardpass.models.picture.strokes import NEGATIVE, POSITIVE
from forwardpass.models.picture.text import Span, Text, fitted
from forwardpass.models.ports import Input, Output
from forwardpass.proto.verdicts import column_labels

if TYPE_CHECKING:
    from forwardpass.models.network import Network

FAINT = "#57606a"
ACCENT = "#8250df"

ARROW = 12.0
"""Length of the arrow out of a head's neuron, in pixels."""
_GAP = 7.0
_FREE = 280.0
"""Width for a text that has nothing beside it, in pixels."""
_OVER_COLUMN = COLUMN - _GAP
"""Width for a heading between those of the next columns, in pixels."""
_BESIDE_HEAD = 100.0
"""Width for a heading among the answers of a head in the column before, in pixels."""


def captions(
    network: "Network",
    diagram: Diagram,
    row: Rows,
    answers: Mapping[str, NDArray[np.float64]],
) -> list[Text]:
    """Return every text except the legend, with numbers beside names if there is a row.

    row: the one row of each input, or empty.
    """
    texts = [
        text
        for source in network.inputs
        for text in _features(source, diagram.blocks[source.name], row.get(source.name))
    ]
    columns = [diagram.column(index) for index in range(diagram.last_column + 1)]
    for index, blocks in enumerate(columns):
        on_top = _on_top(blocks)
        before, after = columns[max(0, index - 1)], columns[index + 1 :][:1]
        among = _OVER_COLUMN if not any(block.is_head for block in before) else _BESIDE_HEAD
        beside = _beside_head(*after) if after else _FREE
        for block in blocks:
            outputs = [output for output in network.outputs if output.layer == block.name]
            if block is on_top:
                shown = [] if block.is_head else outputs
                texts += _heading(block, diagram.top - 14, shown, _OVER_COLUMN)
            elif not block.is_head:
                texts += _heading(block, block.y[0] - RADIUS, outputs, among)
            if block.is_head:
                texts += _head(block, outputs, answers, beside, with_heading=block is not on_top)
    return texts


def _on_top(blocks: Sequence[Block]) -> Block | None:
    """Return the block whose heading is on the top line, if only one can be meant."""
    candidates = [block for block in blocks if not block.is_head] or blocks
    return candidates[0] if len(candidates) == 1 else None


def _beside_head(after: Sequence[Block]) -> float:
    """Return the width at the right of a head, up to the content of the next column."""
    among = any(not block.is_head and block is not _on_top(after) for block in after)
    half = _BESIDE_HEAD / 2 if among else RADIUS
    return COLUMN - RADIUS - ARROW - half - 2 * _GAP


def legend(x: float, y: float, notes: Sequence[str]) -> list[Text]:
    """Return the meaning of the lines, and the notes, as lines of text from (x, y) down."""
    lines = [
        [
            Span("Lines are weights: ", FAINT),
            Span("blue", POSITIVE, bold=True),
            Span(" above zero, ", FAINT),
            Span("orange", NEGATIVE, bold=True),
            Span(" below,", FAINT),
        ],
        [Span("the thicker, the nearer to the largest into the neuron.", FAINT)],
        *([Span(note, FAINT)] for note in notes),
    ]
    return [Text(x, y + 14 * line, spans, size=10) for line, spans in enumerate(lines)]


def _features(
    source: Input | Categorical, block: Block, row: NDArray[Any] | None
) -> Iterator[Text]:
    if isinstance(source, Categorical):
        one_hot = source.values is None
        lines = _rows(block, [*map(str, source.categories)] if one_hot else (), (), None)
    else:
        values = None if row is None else row[0, list(block.shown)]
        lines = _rows(block, source.features, source.units, values)
    for y, spans in lines:
        yield Text(block.x - RADIUS - _GAP, y, fitted(spans, 12, _FREE), "end")


def _heading(block: Block, top: float, outputs: Sequence[Output], room: float) -> Iterator[Text]:
    """Yield number and name, then width, activation and outputs, above y = top."""
    yield Text(block.x, top - 23, fitted(_title(block), 13, room), "middle", 13)
    yield Text(block.x, top - 8, fitted(_about(block, outputs), 11, room), "middle", 11)


def _head(
    block: Block,
    outputs: Sequence[Output],
    answers: Mapping[str, NDArray[np.float64]],
    room: float,
    *,
    with_heading: bool,
) -> Iterator[Text]:
    """Yield the texts at the right of a head: its outputs' names, labels and values."""
    x = block.x + RADIUS + ARROW + _GAP
    given = next((output.labels for output in outputs if output.labels), ())
    labels = column_labels(given, block.width)
    units = next((output.units for output in outputs if output.units), ())
    activations = next((output for output in outputs if output.of == "a"), outputs[0])
    values = answers[activations.name][list(block.shown)] if answers else None
    rows = list(_rows(block, labels, units, values))
    # A single neuron without a label has its output's name beside it, not above.
    y = block.y[0] - 15 if rows or len(block.y) > 1 else block.y[0] + 4
    if with_heading:
        yield Text(x, y, fitted(_about(block, outputs), 11, room), size=11)
        yield Text(x, y - 15, fitted(_title(block), 13, room), size=13)
    else:
        yield Text(x, y, fitted([_shown(block, outputs)], 11, room), size=11)
    for baseline, spans in rows:
        yield Text(x, baseline, fitted(spans, 12, room))


def _rows(
    block: Block,
    names: Sequence[str],
    units: Sequence[str],
    values: NDArray[np.floating[Any]] | None,
) -> Iterator[tuple[float, list[Span]]]:
    """Yield baseline, name and value of each drawn neuron that has any."""
    if not names and values is None:
        return
    for index, (unit, y) in enumerate(zip(block.shown, block.y, strict=True)):
        spans = [Span(names[unit], elastic=True)] if names else []
        if values is not None:
            spans.append(Span(f"{'  ' if names else ''}{_number(float(values[index]))}", bold=True))
        if units and units[unit]:
            text = f" {units[unit]}" if values is not None else f" ({units[unit]})"
            spans.append(Span(text, FAINT, elastic=True))
        yield y + 4, spans


def _title(block: Block) -> list[Span]:
    title = [Span("L", bold=True), Span(str(block.number), bold=True, subscript=True)]
    if block.name != f"L{block.number}":
        title.append(Span(f" {block.name}", bold=True, elastic=True))
    return title


def _about(block: Block, outputs: Sequence[Output]) -> list[Span]:
    features = "feature" if block.width == 1 else "features"
    what = features if block.layer is None else str(block.layer.activation)
    width = Span(f"{block.width} {what}", FAINT, elastic=True)
    return [width, Span(", ", FAINT), _shown(block, outputs)] if outputs else [width]


def _shown(block: Block, outputs: Sequence[Output]) -> Span:
    """Name the outputs; an output with the layer's own name is just "output"."""
    names = [output.name + (" (z)" if output.of == "z" else "") for output in outputs]
    if names == [block.name]:
        return Span("output", ACCENT)
    return Span(f"output{'s' * (len(names) > 1)} {', '.join(names)}", ACCENT, elastic=True)


def _number(value: float) -> str:
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.0e}"
