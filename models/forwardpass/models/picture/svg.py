"""Pictures of networks, after the figures of the lecture, as SVG."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import activation_of, last_of
from forwardpass.models.feeds import Rows, read_feed
from forwardpass.models.forward import filled, propagate
from forwardpass.models.picture.captions import ARROW, FAINT, captions, legend
from forwardpass.models.picture.diagram import COLUMN, RADIUS, Block, Diagram, lay_out
from forwardpass.models.picture.strokes import MAX_LINES, NEGATIVE, POSITIVE, strokes
from forwardpass.models.picture.text import BACKGROUND, INK, printable
from forwardpass.models.ports import Input
from forwardpass.proto.spec import TensorError, format_shape

if TYPE_CHECKING:
    from forwardpass.models.network import Network

_MARGIN = 22.0
_NOT_A_NUMBER = "#afb8c1"
_FULLEST = 0.75
"""Opacity of the largest activation's color, low enough to read the neuron's number."""
_BOUNDED = ("sigmoid", "tanh", "softmax", "grouped_softmax", "softsign", "hard_sigmoid")


def to_svg(network: "Network", row: Any = None) -> str:
    """Return a picture of the network: an SVG document that needs nothing else.

    Neurons are circles, one column per depth; layers wider than a dozen show six neurons at
    either end. A line is a weight: blue above zero and orange below, the thicker the closer
    it is to the largest weight into the same neuron. A weight of zero has no line, and a skip
    connection only lines for its strongest weights. With one row of raw features (s_1,),
    neurons are filled with their activations in the same colors (sigmoid, tanh, softmax,
    softsign and hard_sigmoid as they are, others relative to the largest of their layer), and
    features and answers are written beside them.

    Raises TensorError if row is not one row of the network's features.
    """
    features: Rows = {}
    values: Mapping[str, NDArray[np.float64]] = {}
    if row is not None:
        features, values = _propagated(network, row)
    network = _drawn(network)
    diagram = lay_out(network)
    texts = captions(network, diagram, features, values)
    left = min([-RADIUS, *(text.left for text in texts)]) - _MARGIN
    notes = list(_notes(network, diagram, filled=row is not None))
    texts += legend(left + _MARGIN, diagram.bottom + 1.6 * _MARGIN, notes)
    edge = diagram.last_column * COLUMN + RADIUS + ARROW
    right = max([edge, *(text.right for text in texts)]) + _MARGIN
    top = min([diagram.top, *(text.y - text.size for text in texts)]) - _MARGIN
    bottom = max(text.y for text in texts) + _MARGIN
    width, height = right - left, bottom - top
    title = f"{network.name}: {' - '.join(map(str, network.sizes))}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" font-family="sans-serif" '
            f'xml:space="preserve">',
            f"<title>{escape(printable(title))}</title>",
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="10" fill="{BACKGROUND}"/>',
            '<g fill="none">',
            *strokes(network, diagram),
            "</g>",
            *_bias_units(diagram),
            *(
                part
                for block in diagram.blocks.values()
                for part in _neurons(block, _activations(network, block, values))
            ),
            *(text.svg() for text in texts),
            "</svg>",
            "",
        ]
    )


def _drawn(network: "Network") -> "Network":
    """Return the network with a single scaling of each input, so that it is drawn once."""
    names = {
        each.name: source.name
        for source in network.inputs
        for each in source.scaled
        if each is not source
    }
    if not names:
        return network
    layers = (
        replace(layer, reads=tuple(names.get(read, read) for read in layer.reads))
        for layer in network.layers
    )
    inputs = tuple(
        replace(source, scalings=()) if isinstance(source, Input) else source
        for source in network.inputs
    )
    return replace(network, inputs=inputs, layers=tuple(layers))


def _propagated(network: "Network", row: Any) -> tuple[Rows, Mapping[str, NDArray[np.float64]]]:
    """Return the row of each input of numbers, and all values, by the lecture's names."""
    feed = read_feed(network, row)
    if not feed.single:
        (name, several), *_ = feed.rows.items()
        raise TensorError(
            f"input {name!r}",
            expected=f"one row, of shape {format_shape(several.shape[1:])}",
            got=format_shape(several.shape),
            fix="give one value for each column, as in x[0]",
        )
    rows = {
        source.name: filled(feed.rows[source.name], source)
        for source in network.inputs
        if isinstance(source, Input)
    }
    return rows, propagate(network, row)


def _activations(
    network: "Network", block: Block, values: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """Return the activations of a block of neurons; None without a row."""
    if not values:
        return None
    if block.layer is not None:
        return values[graph_names.a(block.number)]
    return values[graph_names.of_input(block.name, len(network.inputs))]


def _notes(network: "Network", diagram: Diagram, *, filled: bool) -> Iterator[str]:
    widths = {name: len(block.shown) for name, block in diagram.blocks.items()}
    if any(widths[name] * widths[reader] > MAX_LINES for name, reader in diagram.lanes):
        yield f"Past a column lead the {MAX_LINES} strongest lines alone."
    if filled:
        yield "Fill is the activation, in the same colors."
        numbers = [source for source in network.inputs if isinstance(source, Input)]
        if any(each.mean is not None or each.scale is not None for each in numbers):
            yield "Features are filled as the network scales them."


def _bias_units(diagram: Diagram) -> Iterator[str]:
    for column, y in enumerate(diagram.bias):
        x = column * COLUMN
        yield (
            f'<circle cx="{x:g}" cy="{y:g}" r="{RADIUS - 1:g}" fill="#f6f8fa" '
            f'stroke="{FAINT}" stroke-dasharray="3 2"><title>bias unit</title></circle>'
            f'<text x="{x:g}" y="{y + 3.5:g}" font-size="10" fill="{FAINT}" '
            f'text-anchor="middle">+1</text>'
        )


def _neurons(block: Block, a: NDArray[np.float64] | None) -> Iterator[str]:
    fills = [BACKGROUND] * block.width if a is None else _fills(block, a)
    letter = "x" if block.layer is None else "a"
    for unit, y in zip(block.shown, block.y, strict=True):
        if block.is_head:
            start, tip = block.x + RADIUS, block.x + RADIUS + ARROW
            yield (
                f'<path d="M{start:g} {y:g}H{tip:g}m-4 -3l4 3l-4 3" fill="none" stroke="{FAINT}"/>'
            )
        yield (
            f'<circle cx="{block.x:g}" cy="{y:g}" r="{RADIUS:g}" fill="{fills[unit]}" '
            f'stroke="{INK}" stroke-width="1.2"/>'
            f'<text x="{block.x:g}" y="{y + 3:g}" font-size="9" fill="{INK}" '
            f'text-anchor="middle">{letter}<tspan dy="2" font-size="7">{unit + 1}</tspan></text>'
        )
    if block.ellipsis is not None:
        for offset in (-7, 0, 7):
            yield (
                f'<circle cx="{block.x:g}" cy="{block.ellipsis + offset:g}" r="1.8" fill="{INK}"/>'
            )


def _fills(block: Block, a: NDArray[np.float64]) -> list[str]:
    """Return the color of each neuron's activation, drawn or not."""
    if block.layer is None or activation_of(last_of(block.layer.activation)).name not in _BOUNDED:
        largest = np.abs(a).max()
        with np.errstate(invalid="ignore"):  # infinite over infinite
            a = a / largest if largest > 0 else a
    return [_tint(float(share)) for share in a]


def _tint(share: float) -> str:
    """Mix the background with blue, or with orange below zero; gray for NaN."""
    if isnan(share):
        return _NOT_A_NUMBER
    full = POSITIVE if share > 0 else NEGATIVE
    part = _FULLEST * min(1.0, abs(share))
    mixed = (
        round(int(BACKGROUND[at : at + 2], 16) * (1 - part) + int(full[at : at + 2], 16) * part)
        for at in (1, 3, 5)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
