"""The lines of a picture."""

import re

import numpy as np

from forwardpass.models import Dense, Network, Output
from forwardpass.models.picture.diagram import lay_out
from forwardpass.models.picture.strokes import NEGATIVE, POSITIVE, strokes


def lines(network: Network) -> dict[tuple[str, float], int]:
    """Number of lines by color and thickness."""
    found = {}
    for path in strokes(network, lay_out(network)):
        match = re.search(r'd="([^"]*)" stroke="([^"]*)" stroke-width="([^"]*)"', path)
        assert match is not None
        found[match[2], float(match[3])] = match[1].count("M")
    return found


def chain(W: list[list[float]], b: list[float]) -> Network:
    return Network.chain([len(W[0]), len(W)], parameters=[(np.array(W), np.array(b))])


def test_the_sign_of_a_weight_is_its_color_and_its_size_the_thickness() -> None:
    found = lines(chain([[1.0, -0.25]], [0.5]))
    thickness = {color: width for color, width in found if color == NEGATIVE}
    positive = sorted(width for color, width in found if color == POSITIVE)
    assert len(positive) == 2  # the bias, half as large, and the weight
    assert thickness[NEGATIVE] < positive[0] < positive[1]


def test_a_weight_of_zero_has_no_line() -> None:
    assert sum(lines(chain([[1.0, 0.0, 0.0]], [0.5])).values()) == 2


def test_outputs_in_different_units_show_alike() -> None:
    W, b = [[1.0, -0.5], [0.5, 1.0]], [0.1, 0.1]
    scaled = [W[0], [1000 * weight for weight in W[1]]], [b[0], 1000 * b[1]]
    weights = {width: n for (_, width), n in lines(chain(W, [0.0, 0.0])).items()}
    assert {w: n for (_, w), n in lines(chain(scaled[0], [0.0, 0.0])).items()} == weights


def test_a_large_bias_is_no_thicker_than_the_largest_weight() -> None:
    thickest = max(width for _, width in lines(chain([[1.0, 2.0]], [0.0])))
    assert max(width for _, width in lines(chain([[1.0, 2.0]], [1e6]))) == thickest


def test_parameters_that_are_all_zero_have_lines_of_the_bias_alone() -> None:
    assert sum(lines(chain([[0.0, 0.0]], [0.0])).values()) == 1


def test_skip_connections_have_a_line_a_weight_up_to_the_strongest_few() -> None:
    def skipping(width: int) -> Network:
        return Network.define(
            width,
            [Dense("hidden", 1), Dense("y", width, reads=("hidden", "x"), b=np.ones(width))],
            [Output("y", "y")],
        )

    few, many = (strokes(network, lay_out(network)) for network in (skipping(3), skipping(12)))
    assert sum(path.count("Q") for path in few) == 4 * 9  # four bends a line
    assert sum(path.count("Q") for path in many) == 4 * 16
