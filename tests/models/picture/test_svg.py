"""The picture as a whole."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from numpy.typing import ArrayLike

from forwardpass.models import Dense, Input, Network, Output
from forwardpass.models.picture.svg import to_svg
from forwardpass.models.zoo import ZOO
from forwardpass.proto.spec import TensorError

SVG = "{http://www.w3.org/2000/svg}"


def parts(svg: str) -> Counter[str]:
    return Counter(element.tag.removeprefix(SVG) for element in ET.fromstring(svg).iter())


def fills(svg: str) -> list[str | None]:
    """Colors of the neurons, the bias units left out."""
    circles = ET.fromstring(svg).iter(f"{SVG}circle")
    return [circle.get("fill") for circle in circles if circle.find(f"{SVG}title") is None]


def test_the_lectures_3_3_1_has_seven_neurons_and_two_bias_units() -> None:
    svg = to_svg(Network.chain([3, 3, 1], "sigmoid", "sigmoid"))
    assert parts(svg)["circle"] == 7 + 2
    assert svg.count(">+1<") == 2


@pytest.mark.parametrize("name", ZOO)
def test_a_picture_is_well_formed_self_contained_and_small(name: str) -> None:
    example = ZOO[name]
    for x in (None, example.held_out()[0].x):
        svg = to_svg(example.network(), x)
        assert set(parts(svg)) <= {"svg", "title", "rect", "g", "path", "circle", "text", "tspan"}
        assert "href" not in svg
        assert "url(" not in svg
        assert len(svg) < 60_000


def test_the_widest_and_the_most_connected_networks_stay_below_200_kb() -> None:
    names = ["x", *(f"d{depth}" for depth in range(5))]
    dense = [Dense(name, 64, reads=names[: i + 1]) for i, name in enumerate(names[1:])]
    assert len(to_svg(Network.define(64, dense))) < 200_000
    assert len(to_svg(Network.chain([784, 512, 512, 10]))) < 200_000


def test_equal_networks_give_equal_pictures() -> None:
    x = ZOO["breast_cancer"].held_out().x[0]
    first, second = (to_svg(ZOO["breast_cancer"].network(), x) for _ in range(2))
    assert first == second


def test_everything_lies_within_the_frame() -> None:
    root = ET.fromstring(to_svg(ZOO["breast_cancer"].network()))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (float(root.attrib["width"]), float(root.attrib["height"])) == (
        round(width), round(height),
    )  # fmt: skip
    for element in root.iter():
        x, y = element.get("x", element.get("cx")), element.get("y", element.get("cy"))
        if x is not None and y is not None:
            assert left <= float(x) <= left + width
            assert top <= float(y) <= top + height
    coordinates = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", to_svg(ZOO["breast_cancer"].network()))
    assert all(left < float(x) < left + width for x, _ in coordinates)
    assert all(top < float(y) < top + height for _, y in coordinates)


def test_it_has_a_light_background_of_its_own() -> None:
    rect = ET.fromstring(to_svg(Network.chain([1, 1]))).find(f"{SVG}rect")
    assert rect is not None
    assert rect.get("fill") == "#ffffff"


def test_text_is_escaped() -> None:
    network = Network.chain(
        [1, 1], input=Input(1, features=("<script>&\x07",)), labels=('"</svg>',), name="<&>"
    )
    text = "".join(ET.fromstring(to_svg(network)).itertext())
    assert "<script>&\ufffd" in text
    assert '"</svg>' in text
    assert "<&>: 1 - 1" in text


def test_activations_are_the_fill() -> None:
    network = Network.define(
        Input(3),
        [
            Dense("hidden", activation="tanh", W=np.diag([100.0, 100.0, 0.0]), b=np.zeros(3)),
            Dense("y", activation="identity", W=np.array([[0.0, 0.0, 0.0]]), b=np.array([7.0])),
        ],
        [Output("y", "y")],
    )
    blue, orange, white = "#40", "#e0", "#ffffff"
    drawn = fills(to_svg(network, [2.0, -2.0, 0.0]))
    assert [color[:3] for color in drawn if color][:2] == [blue, orange]
    assert drawn[2] == white
    assert [color[:3] for color in drawn[3:5] if color] == [blue, orange]
    assert drawn[5] == white
    assert drawn[6] == drawn[0]
    assert set(fills(to_svg(network))) == {white}


def test_a_value_that_is_not_a_number_is_gray() -> None:
    svg = to_svg(Network.chain([2, 1]), [np.nan, 1.0])
    assert fills(svg)[0] == "#afb8c1"


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (), (4,)])
def test_anything_but_one_row_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError, match=r"input 'x': expected .*3\]"):
        to_svg(Network.chain([3, 1]), np.zeros(shape))


def test_a_notebook_shows_a_network_as_its_picture() -> None:
    network = ZOO["breast_cancer"].network()
    x = ZOO["breast_cancer"].held_out().x[0]
    assert network._repr_svg_() == network.to_svg() == to_svg(network)
    assert network.to_svg(x) == to_svg(network, x) != to_svg(network)


def test_what_draws_is_imported_when_something_is_drawn() -> None:
    program = (
        "import sys; from forwardpass.models import Network; network = Network.chain([3, 1])\n"
        "drawn = lambda: 'forwardpass.models.picture.svg' in sys.modules\n"
        "print(drawn(), network.to_svg()[:4], drawn())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False <svg True\n", "")


def test_notes_report_what_fills_and_what_is_left_out() -> None:
    def notes(network: Network, x: ArrayLike | None = None) -> str:
        return "".join(ET.fromstring(to_svg(network, x)).itertext())

    example = ZOO["breast_cancer"]
    filled = notes(example.network(), example.held_out().x[0])
    assert "Fill is the activation" in filled
    assert "Features are filled as the network scales them" in filled
    assert "as the network scales" not in notes(Network.chain([2, 1]), [1, 2])
    assert "Fill" not in notes(example.network())
    wide = [Dense("hidden", 1), Dense("y", 3, reads=("hidden", "x"))]
    assert "the 16 strongest lines" in notes(Network.define(6, wide))
    assert "strongest lines" not in notes(Network.define(5, wide))
