"""Where the parts of a picture stand."""

from itertools import pairwise

import pytest

from forwardpass.models import Dense, Network
from forwardpass.models.picture.diagram import COLUMN, RADIUS, lay_out

TWO_HEADS = Network.define(
    30,
    [
        Dense("trunk", 16, "tanh"),
        Dense("worst", 10, "identity"),
        Dense("malignancy", 1, "sigmoid", reads=("trunk", "x")),
    ],
    ["worst", "malignancy"],
)
DENSE = Network.define(
    6,
    [
        Dense("d1", 8),
        Dense("d2", 8, reads=("d1", "x")),
        Dense("d3", 20, reads=("d2", "d1", "x")),
        Dense("early", 2, reads="d1"),
        Dense("d4", 3, reads=("d3", "d2", "d1", "x")),
    ],
    ["early", "d4"],
)


def test_a_column_is_the_longest_path_from_the_input() -> None:
    blocks = lay_out(DENSE).blocks
    assert {name: block.column for name, block in blocks.items()} == {
        "x": 0, "d1": 1, "d2": 2, "d3": 3, "early": 2, "d4": 4,
    }  # fmt: skip
    assert blocks["d4"].x == 4 * COLUMN


def test_parallel_heads_stand_in_one_column_without_touching() -> None:
    blocks = lay_out(TWO_HEADS).blocks
    worst, malignancy = blocks["worst"], blocks["malignancy"]
    assert worst.x == malignancy.x
    assert malignancy.y[0] - worst.y[-1] > 4 * RADIUS
    assert worst.is_head
    assert not blocks["trunk"].is_head


def test_heads_stand_below_the_layers_of_their_column_that_are_read() -> None:
    diagram = lay_out(DENSE)
    assert [block.name for block in diagram.column(2)] == ["d2", "early"]
    assert diagram.blocks["d2"].y[-1] < diagram.bias[2] < diagram.blocks["early"].y[0]


def test_every_column_but_the_last_has_a_bias_unit_below_what_is_read() -> None:
    diagram = lay_out(TWO_HEADS)
    assert len(diagram.bias) == diagram.last_column == 2
    assert diagram.bias[0] > diagram.blocks["x"].y[-1] + 2 * RADIUS


@pytest.mark.parametrize(("width", "shown"), [(1, 1), (12, 12), (13, 12), (512, 12)])
def test_a_layer_wider_than_a_dozen_shows_both_its_ends(width: int, shown: int) -> None:
    block = lay_out(Network.chain([width, 1])).blocks["x"]
    assert len(block.shown) == len(block.y) == shown
    assert (block.ellipsis is not None) == (width > shown)
    assert (block.shown[0], block.shown[-1], block.width) == (0, width - 1, width)
    if block.ellipsis is not None:
        assert block.shown[5:7] == (5, width - 6)
        assert block.y[5] < block.ellipsis < block.y[6]


@pytest.mark.parametrize("network", [TWO_HEADS, DENSE])
def test_neurons_never_touch(network: Network) -> None:
    diagram = lay_out(network)
    for column in range(diagram.last_column + 1):
        heights = [y for block in diagram.column(column) for y in block.y]
        if column < diagram.last_column:
            heights.append(diagram.bias[column])
        heights.sort()
        gaps = [below - above for above, below in pairwise(heights)]
        assert all(gap > 2 * RADIUS for gap in gaps)


@pytest.mark.parametrize("network", [TWO_HEADS, DENSE])
def test_a_skip_connection_passes_under_the_neurons_between_the_columns(network: Network) -> None:
    diagram = lay_out(network)
    lowest = max([*diagram.bias, *(block.y[-1] for block in diagram.blocks.values())])
    for (source, reader), lane in diagram.lanes.items():
        start, end = diagram.blocks[source].x, diagram.blocks[reader].x
        assert lane.along > lowest + 2 * RADIUS
        assert start + RADIUS < lane.down < start + COLUMN - RADIUS
        assert end - COLUMN + RADIUS < lane.up < end - RADIUS
    assert len({lane.along for lane in diagram.lanes.values()}) == len(diagram.lanes)


def test_only_connections_past_a_column_have_a_lane() -> None:
    assert set(lay_out(TWO_HEADS).lanes) == {("x", "malignancy")}
    assert set(lay_out(DENSE).lanes) == {
        ("x", "d2"), ("d1", "d3"), ("x", "d3"), ("d2", "d4"), ("d1", "d4"), ("x", "d4"),
    }  # fmt: skip
