"""The lines of a network's picture: one per weight, colored by sign, as thick as its size."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.layers import Layer
from forwardpass.models.picture.diagram import COLUMN, Block, Diagram, Lane

if TYPE_CHECKING:
    from forwardpass.models.network import Network

# Blue and vermilion of Okabe and Ito's palette, which color-blind readers can distinguish.
POSITIVE = "#0072b2"
NEGATIVE = "#d55e00"
NEUTRAL = "#8c959f"

_LEVELS = 8
"""Number of line widths. Lines of one width and sign are one path, to keep the file small."""
_BEND = 14.0
"""Radius of the bends into and out of a lane, in pixels."""
_SPACING = 3.0
"""Distance between the lines of a bundle, in pixels, unless there are many."""
_BUNDLE = 30.0
"""Maximum width of a bundle, in pixels."""
MAX_LINES = 16
"""Maximum number of lines of a skip connection, the strongest ones: more would be unreadable."""


def strokes(network: "Network", diagram: Diagram) -> list[str]:
    """Return SVG paths for all connections, weak ones below strong ones.

    The strength of a weight is relative to the largest into the same neuron, so that outputs in
    different units look alike; that of a bias also to the largest of its layer. A weight of zero
    has no line.
    """
    paths: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for layer in network.layers:
        for strength, path in _into(layer, diagram):
            level = int(np.ceil(abs(strength) * _LEVELS))
            paths[level, int(np.sign(strength))].append(path)
    return [
        _path(level, sign, "".join(segments)) for (level, sign), segments in sorted(paths.items())
    ]


def _path(level: int, sign: int, segments: str) -> str:
    color = {1: POSITIVE, -1: NEGATIVE, 0: NEUTRAL}[sign]
    share = level / _LEVELS
    return (
        f'<path d="{segments}" stroke="{color}" '
        f'stroke-width="{0.5 + 2.5 * share:.2f}" stroke-opacity="{0.25 + 0.6 * share:.2f}"/>'
    )


def _into(layer: Layer, diagram: Diagram) -> Iterator[tuple[float, str]]:
    """Yield the strength in -1..1 and the path of each line into a layer."""
    target = diagram.blocks[layer.name]
    weights = layer.W.astype(np.float64)
    largest = np.abs(weights).max(axis=1)
    largest[largest == 0] = 1.0
    weights /= largest[:, np.newaxis]
    biases = layer.b / np.maximum(largest, np.abs(layer.b).max())

    bias_y = diagram.bias[target.column - 1]
    for unit, y in zip(target.shown, target.y, strict=True):
        yield biases[unit], _straight(target.x - COLUMN, bias_y, target.x, y)
    start = 0
    for name in layer.reads:
        source = diagram.blocks[name]
        block = weights[:, start : start + source.width]
        start += source.width
        lane = diagram.lanes.get((name, layer.name))
        if lane is None:
            yield from _mesh(source, target, block)
        else:
            yield from _bundle(source, target, block, lane)


def _mesh(
    source: Block, target: Block, weights: NDArray[np.float64]
) -> Iterator[tuple[float, str]]:
    for unit, y in zip(target.shown, target.y, strict=True):
        for feature, from_y in zip(source.shown, source.y, strict=True):
            if weights[unit, feature]:
                yield weights[unit, feature], _straight(source.x, from_y, target.x, y)


def _straight(from_x: float, from_y: float, x: float, y: float) -> str:
    return f"M{from_x:g} {from_y:g}L{x:g} {y:g}"


def _bundle(
    source: Block, target: Block, weights: NDArray[np.float64], lane: Lane
) -> Iterator[tuple[float, str]]:
    """Draw the lines of a skip connection side by side: down, through their lane, and up."""
    pairs = [
        (weights[unit, feature], from_y, y)
        for feature, from_y in zip(source.shown, source.y, strict=True)
        for unit, y in zip(target.shown, target.y, strict=True)
        if weights[unit, feature]
    ]
    strongest = sorted(range(len(pairs)), key=lambda index: -abs(pairs[index][0]))[:MAX_LINES]
    pairs = [pairs[index] for index in sorted(strongest)]
    spacing = min(_SPACING, _BUNDLE / max(1, len(pairs)))
    for index, (weight, from_y, y) in enumerate(pairs):
        # The topmost line goes down outermost and stays topmost in the lane, so none cross.
        offset = (index - (len(pairs) - 1) / 2) * spacing
        corners = [
            (lane.down - offset, from_y),
            (lane.down - offset, lane.along + offset),
            (lane.up + offset, lane.along + offset),
            (lane.up + offset, y),
        ]
        yield weight, _rounded([(source.x, from_y), *corners, (target.x, y)])


def _rounded(points: Sequence[tuple[float, float]]) -> str:
    """Return the path along horizontal and vertical lines, with rounded corners."""
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for (x0, y0), (x, y), (x1, y1) in zip(points, points[1:], points[2:], strict=False):
        before = (x - np.sign(x - x0) * _BEND, y - np.sign(y - y0) * _BEND)
        after = (x + np.sign(x1 - x) * _BEND, y + np.sign(y1 - y) * _BEND)
        path += f"L{before[0]:g} {before[1]:g}Q{x:g} {y:g} {after[0]:g} {after[1]:g}"
    return f"{path}L{points[-1][0]:g} {points[-1][1]:g}"
