"""The texts of a network's picture: headings of layers, features, answers, the legend."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.diagram import RADIUS, Block, Diagram
from forwardpass.models.ports import Output
from forwardpass.models.strokes import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from forwardpass.models.network import Network

BACKGROUND = "#ffffff"
INK = "#24292f"
FAINT = "#57606a"
ACCENT = "#8250df"

ARROW = 12.0
"""Length of the arrow out of a head's neuron."""
_GAP = 7.0
# Most letters of a label, and of a layer's name over its column.
_LABEL = 34
_HEADING = 20
# A sans-serif letter's advance over the font's size: generous, as the font is not known.
_ADVANCE = 0.58


@dataclass(frozen=True)
class Span:
    """A run of letters of one look."""

    text: str
    colour: str = INK
    bold: bool = False
    subscript: bool = False


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline."""

    x: float
    y: float
    spans: Sequence[Span]
    anchor: str = "start"
    """`start`, `middle` or `end`: which part of it is at x."""
    size: float = 12.0

    @property
    def left(self) -> float:
        """About where it begins."""
        return self.x - self._width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]

    @property
    def right(self) -> float:
        """About where it ends."""
        return self.left + self._width

    @property
    def _width(self) -> float:
        letters = sum(len(span.text) * (1.08 if span.bold else 1.0) for span in self.spans)
        return letters * self.size * _ADVANCE

    def svg(self) -> str:
        """Return it twice: a halo that parts it from the lines behind it, then the ink."""
        start = f'<text x="{self.x:g}" y="{self.y:g}" font-size="{self.size:g}"'
        start += f' text-anchor="{self.anchor}"' if self.anchor != "start" else ""
        halo = f'stroke="{BACKGROUND}" stroke-width="4" stroke-linejoin="round"'
        letters = "".join(self._tspans())
        return f"{start} {halo}>{letters}</text>{start}>{letters}</text>"

    def _tspans(self) -> Iterator[str]:
        sunk = False
        for span in self.spans:
            look = f' fill="{span.colour}"' + (' font-weight="bold"' if span.bold else "")
            look += f' font-size="{self.size * 0.75:g}"' if span.subscript else ""
            if span.subscript != sunk:
                look += f' dy="{3 if span.subscript else -3}"'
            sunk = span.subscript
            yield f"<tspan{look}>{escape(printable(span.text))}</tspan>"


def printable(text: str) -> str:
    """Return text with U+FFFD for what XML may not hold or a line cannot show."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def captions(
    network: "Network",
    diagram: Diagram,
    row: NDArray[np.float32] | None,
    answers: Mapping[str, NDArray[np.float64]],
) -> list[Text]:
    """Return every text but the legend, with numbers beside names where there is a row."""
    texts = list(_features(network, diagram.blocks[network.input.name], row))
    for column in range(diagram.last_column + 1):
        blocks = diagram.column(column)
        # The heading stands on the top line where one layer alone can be meant.
        candidates = [block for block in blocks if not block.is_head] or blocks
        on_top = candidates[0] if len(candidates) == 1 else None
        for block in blocks:
            outputs = [output for output in network.outputs if output.layer == block.name]
            if block is on_top or not block.is_head:
                top = diagram.top - 14 if block is on_top else block.y[0] - RADIUS
                texts += _heading(block, top, [] if block.is_head else outputs)
            if block.is_head:
                texts += _head(block, outputs, answers, with_heading=block is not on_top)
    return texts


def legend(x: float, y: float, *, filled: bool) -> list[Text]:
    """Return what the colours mean, in lines from (x, y) down."""
    lines = [
        [
            Span("Lines are weights: ", FAINT),
            Span("blue", POSITIVE, bold=True),
            Span(" above zero, ", FAINT),
            Span("orange", NEGATIVE, bold=True),
            Span(" below,", FAINT),
        ],
        [Span("the thicker, the nearer to the largest into the neuron.", FAINT)],
    ]
    if filled:
        lines.append([Span("Fill is the activation, in the same colours.", FAINT)])
    return [Text(x, y + 14 * line, spans, size=10) for line, spans in enumerate(lines)]


def _features(network: "Network", block: Block, row: NDArray[np.float32] | None) -> Iterator[Text]:
    given = network.input
    values = None if row is None else row[list(block.shown)]
    for y, spans in _rows(block, given.features, given.units, values):
        yield Text(block.x - RADIUS - _GAP, y, spans, "end")


def _heading(block: Block, top: float, outputs: Sequence[Output]) -> Iterator[Text]:
    """Yield number and name, then width, activation and outputs, above y = top."""
    yield Text(block.x, top - 23, _title(block), "middle", 13)
    yield Text(block.x, top - 8, _about(block, outputs), "middle", 11)


def _head(
    block: Block,
    outputs: Sequence[Output],
    answers: Mapping[str, NDArray[np.float64]],
    *,
    with_heading: bool,
) -> Iterator[Text]:
    """Yield what stands at the right of a head: its outputs' names, labels and values."""
    x = block.x + RADIUS + ARROW + _GAP
    labels = next((output.labels for output in outputs if output.labels), ())
    units = next((output.units for output in outputs if output.units), ())
    values = answers[outputs[0].name][list(block.shown)] if answers else None
    rows = list(_rows(block, labels, units, values))
    # One neuron without a label has its output's name beside it, not above.
    y = block.y[0] - 15 if rows or len(block.y) > 1 else block.y[0] + 4
    if with_heading:
        yield Text(x, y, _about(block, outputs), size=11)
        yield Text(x, y - 15, _title(block), size=13)
    else:
        yield Text(x, y, [_shown(block, outputs)], size=11)
    for baseline, spans in rows:
        yield Text(x, baseline, spans)


def _rows(
    block: Block,
    names: Sequence[str],
    units: Sequence[str],
    values: NDArray[np.floating[Any]] | None,
) -> Iterator[tuple[float, list[Span]]]:
    """Yield baseline, name and value for each neuron that is drawn, if it has any."""
    if not names and values is None:
        return
    for index, (unit, y) in enumerate(zip(block.shown, block.y, strict=True)):
        spans = [Span(_short(names[unit], _LABEL))] if names else []
        if values is not None:
            spans.append(Span(f"{'  ' if names else ''}{_number(float(values[index]))}", bold=True))
        if units and units[unit]:
            spans.append(
                Span(f" {units[unit]}" if values is not None else f" ({units[unit]})", FAINT)
            )
        yield y + 4, spans


def _title(block: Block) -> list[Span]:
    title = [Span("L", bold=True), Span(str(block.number), bold=True, subscript=True)]
    if block.name != f"L{block.number}":
        title.append(Span(f" {_short(block.name, _HEADING)}", bold=True))
    return title


def _about(block: Block, outputs: Sequence[Output]) -> list[Span]:
    features = "feature" if block.width == 1 else "features"
    what = features if block.layer is None else block.layer.activation
    width = Span(f"{block.width} {what}{', ' if outputs else ''}", FAINT)
    return [width, _shown(block, outputs)] if outputs else [width]


def _shown(block: Block, outputs: Sequence[Output]) -> Span:
    """Name the outputs; one that has the layer's own name needs no other."""
    names = [output.name + (" (z)" if output.of == "z" else "") for output in outputs]
    if names == [block.name]:
        return Span("output", ACCENT)
    return Span(_short(f"output{'s' * (len(names) > 1)} {', '.join(names)}", _LABEL), ACCENT)


def _number(value: float) -> str:
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.0e}"


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"
