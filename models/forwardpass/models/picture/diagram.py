"""The layout of a network's picture: pure geometry, in pixels, y down.

A layer's column is the length of the longest path to it from the input, so connections lead from
left to right. A connection past a column goes through a lane under all neurons. The layers of a
column are stacked: those that others read, the bias unit, the heads.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forwardpass.models.layers import Layer

if TYPE_CHECKING:
    from forwardpass.models.network import Network

RADIUS = 12.0
PITCH = 31.0
"""Distance between the neurons of a layer."""
COLUMN = 190.0
"""Distance between columns."""
HEADING = 46.0
"""Height above the first neuron of a layer, for three lines of text."""

_MAX_SHOWN = 12
_SHOWN_AT_AN_END = 6
_LANE = 42.0
_ASIDE = 46.0
"""Distance from a column to the first bundle of lines that goes down or up beside it."""


@dataclass(frozen=True)
class Lane:
    """The center lines of a connection past columns: down, along, up."""

    down: float
    """x of the way down, right of the layer read."""
    along: float
    """y of the way along, under all neurons."""
    up: float
    """x of the way up, left of the reading layer."""


@dataclass(frozen=True)
class Block:
    """The neurons of one layer, or the columns of an input."""

    name: str
    number: int
    """Number l of the lecture's L_l."""
    layer: Layer | None
    """The layer; None for an input."""
    is_head: bool
    """Whether no layer reads it."""
    column: int
    shown: tuple[int, ...]
    """Indices of the drawn neurons; an ellipsis replaces the others."""
    y: tuple[float, ...]
    """y of the centers of the drawn neurons; x is the column's."""
    ellipsis: float | None
    """y of the ellipsis' center; None without one."""

    @property
    def x(self) -> float:
        """The x of the column's center."""
        return self.column * COLUMN

    @property
    def width(self) -> int:
        """Number of neurons or features, drawn or not."""
        return self.shown[-1] + 1


@dataclass(frozen=True)
class Diagram:
    """The layout of a network; the inputs' column is at x = 0, the middle of columns at y = 0."""

    blocks: dict[str, Block]
    """Blocks by name, the inputs first."""
    bias: tuple[float, ...]
    """y of the bias unit of each column except the last."""
    lanes: dict[tuple[str, str], Lane]
    """Lanes by (layer read, layer that reads it past a column)."""

    @property
    def top(self) -> float:
        """The y of the upper edge of the highest neuron."""
        return min(block.y[0] for block in self.blocks.values()) - RADIUS

    @property
    def bottom(self) -> float:
        """The y of the lower edge of the lowest neuron or lane."""
        neurons = max(block.y[-1] for block in self.blocks.values())
        return max([neurons, *self.bias, *(lane.along for lane in self.lanes.values())]) + RADIUS

    @property
    def last_column(self) -> int:
        """Index of the last column; the input's is 0."""
        return len(self.bias)

    def column(self, index: int) -> list[Block]:
        """Return the blocks of a column, from the top."""
        blocks = [block for block in self.blocks.values() if block.column == index]
        return sorted(blocks, key=lambda block: block.y[0])


def lay_out(network: "Network") -> Diagram:
    """Return the layout of a network."""
    columns = {source.name: 0 for source in network.inputs}
    for layer in network.layers:
        columns[layer.name] = 1 + max(columns[name] for name in layer.reads)
    last = max(columns.values())

    blocks: dict[str, Block] = {}
    bias = []
    for column in range(last + 1):
        names = [name for name in columns if columns[name] == column]
        stacked, bias_y = _stack(network, names, column)
        blocks |= stacked
        bias.append(bias_y)
    ordered = {name: blocks[name] for name in columns}
    bottom = max([*bias[:-1], *(block.y[-1] for block in ordered.values())])
    return Diagram(ordered, tuple(bias[:-1]), _lanes(network, columns, bottom))


def _stack(network: "Network", names: list[str], column: int) -> tuple[dict[str, Block], float]:
    """Return the blocks of a column and the y of its bias unit, centered on y = 0."""
    read = {name for layer in network.layers for name in layer.reads}
    # Heads come last, so that the texts beside them cross no connection to the next column.
    names = sorted(names, key=lambda name: name not in read)
    blocks: dict[str, Block] = {}
    y = bias_y = 0.0
    for index, name in enumerate(names):
        if index:
            y += HEADING
        number = network.number(name)
        layer = None if number == 1 else network.layers[number - 2]
        shown, offsets, ellipsis = _neurons(network.width(name))
        blocks[name] = Block(
            name,
            number,
            layer,
            name not in read,
            column,
            shown,
            tuple(y + offset for offset in offsets),
            None if ellipsis is None else y + ellipsis,
        )
        y = blocks[name].y[-1] + PITCH
        if name in read:
            bias_y = y
            if index + 1 == len(names) or names[index + 1] not in read:
                y += PITCH
    first, last = blocks[names[0]].y[0], blocks[names[-1]].y[-1]
    shift = -(first + last) / 2
    return {name: _moved(block, shift) for name, block in blocks.items()}, bias_y + shift


def _neurons(width: int) -> tuple[tuple[int, ...], list[float], float | None]:
    """Return the drawn neurons of a layer, their y, and the y of the ellipsis."""
    if width <= _MAX_SHOWN:
        return tuple(range(width)), [PITCH * index for index in range(width)], None
    shown = (*range(_SHOWN_AT_AN_END), *range(width - _SHOWN_AT_AN_END, width))
    slots = [*range(_SHOWN_AT_AN_END), *range(_SHOWN_AT_AN_END + 1, 2 * _SHOWN_AT_AN_END + 1)]
    return shown, [PITCH * slot for slot in slots], PITCH * _SHOWN_AT_AN_END


def _moved(block: Block, by: float) -> Block:
    ellipsis = None if block.ellipsis is None else block.ellipsis + by
    return replace(block, y=tuple(y + by for y in block.y), ellipsis=ellipsis)


def _lanes(
    network: "Network", columns: dict[str, int], bottom: float
) -> dict[tuple[str, str], Lane]:
    skips = [
        (name, layer.name)
        for layer in network.layers
        for name in layer.reads
        if columns[layer.name] - columns[name] > 1
    ]
    # The longest lane is lowest, and the lowest goes nearest to its ends: few bundles cross.
    skips.sort(key=lambda skip: columns[skip[0]] - columns[skip[1]])
    from_name, to_reader = Counter(name for name, _ in skips), Counter(to for _, to in skips)
    beside: Counter[tuple[str, str]] = Counter()
    lanes = {}
    for index, (name, reader) in enumerate(skips):
        lanes[name, reader] = Lane(
            columns[name] * COLUMN + _aside(beside["down", name], from_name[name]),
            bottom + RADIUS + _LANE * (len(skips) - index),
            columns[reader] * COLUMN - _aside(beside["up", reader], to_reader[reader]),
        )
        beside.update([("down", name), ("up", reader)])
    return lanes


def _aside(index: int, count: int) -> float:
    """Return the distance from a column to a bundle beside it; many bundles are closer."""
    return _ASIDE + index * min(_LANE, (COLUMN - 2 * _ASIDE) / count)
