"""Where the parts of a network's picture stand: pure geometry, in pixels, y down.

A layer's column is the length of the longest path to it from the input, so that connections
lead from left to right. A layer that reads past a column does so through a lane under all
neurons. Layers of one column are stacked: those that others read, the bias unit, the heads.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forwardpass.models.layers import Layer

if TYPE_CHECKING:
    from forwardpass.models.network import Network

RADIUS = 12.0
PITCH = 31.0
"""From one neuron of a layer to the next."""
COLUMN = 190.0
"""From one column to the next."""
HEADING = 46.0
"""Above the first neuron of a layer: room for three lines of text."""

_MOST_SHOWN = 12
_SHOWN_AT_AN_END = 6
_LANE = 42.0
_ASIDE = 46.0
"""From a column to the first bundle of lines that goes down or comes up beside it."""


@dataclass(frozen=True)
class Lane:
    """The way of a connection past columns: down, along, up. Centre lines."""

    down: float
    """x, right of what is read."""
    along: float
    """y, under all neurons."""
    up: float
    """x, left of what reads it."""


@dataclass(frozen=True)
class Block:
    """The neurons of one layer, or the features of the input."""

    name: str
    number: int
    """The lecture's l of L_l."""
    layer: Layer | None
    """None for the input."""
    is_head: bool
    """Whether no layer reads it."""
    column: int
    shown: tuple[int, ...]
    """Indices of the neurons that are drawn; an ellipsis stands for those left out."""
    y: tuple[float, ...]
    """Their centres; x is the column's."""
    ellipsis: float | None
    """Its centre, if there is one."""

    @property
    def x(self) -> float:
        """Centre of the column."""
        return self.column * COLUMN

    @property
    def width(self) -> int:
        """How many of them there are, drawn or not."""
        return self.shown[-1] + 1


@dataclass(frozen=True)
class Diagram:
    """A network laid out; the input's column is at x = 0, the columns' middle at y = 0."""

    blocks: dict[str, Block]
    """By name, the input first."""
    bias: tuple[float, ...]
    """y of the bias unit of each column but the last."""
    lanes: dict[tuple[str, str], Lane]
    """By (layer read, layer that reads it past a column)."""

    @property
    def top(self) -> float:
        """Upper edge of the highest neuron."""
        return min(block.y[0] for block in self.blocks.values()) - RADIUS

    @property
    def bottom(self) -> float:
        """Lower edge of the lowest neuron or lane."""
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
    """Return where everything stands."""
    columns = {network.input.name: 0}
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
    """Return the blocks of a column and the y of its bias unit, centred on y = 0."""
    read = {name for layer in network.layers for name in layer.reads}
    # Heads come last: what stands beside them then crosses no connection to the next column.
    names = sorted(names, key=lambda name: name not in read)
    blocks: dict[str, Block] = {}
    y = bias_y = 0.0
    for index, name in enumerate(names):
        if index:
            y += HEADING
        number = network.number(name)
        layer = None if number == 1 else network.layers[number - 2]
        shown, offsets, ellipsis = _neurons(network.sizes[number - 1])
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
    """Return which neurons of a layer are drawn, how far down, and where the ellipsis is."""
    if width <= _MOST_SHOWN:
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
    # The longest lowest, and the lowest nearest to its ends: few bundles cross.
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
    """Return how far from its column a bundle goes up or down: many move closer together."""
    return _ASIDE + index * min(_LANE, (COLUMN - 2 * _ASIDE) / count)
