"""Nothing in a picture covers anything: boxes measured in the SVG, by a font's own metrics."""

import random
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from numpy.typing import ArrayLike

from forwardpass.models import ActivationName, Dense, Input, Network, Output
from forwardpass.models.picture.svg import to_svg
from forwardpass.models.zoo import ZOO

SVG = "{http://www.w3.org/2000/svg}"
# DejaVu Sans, which comes with matplotlib, has wider letters than most sans-serif fonts.
FONTS = {
    weight: FontProperties(family="DejaVu Sans", weight=weight) for weight in ("normal", "bold")
}
DESCENT = 0.22
"""Of a line of text: how far it reaches below its baseline, over its size."""


@dataclass(frozen=True)
class Box:
    what: str
    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: "Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@cache
def width(text: str, weight: str) -> float:
    """Width over size."""
    measured, _, _ = TextToPath().get_text_width_height_descent(
        text.replace("$", "S"), FONTS[weight], ismath=False
    )
    return measured / FONTS[weight].get_size_in_points()


def text_box(element: ET.Element) -> Box:
    size, x, y = (float(element.get(name, "")) for name in ("font-size", "x", "y"))
    wide = 0.0
    for span in element.iter():
        weight = span.get("font-weight", "normal")
        wide += float(span.get("font-size", size)) * width(span.text or "", weight)
    left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")]
    text = "".join(element.itertext())
    return Box(text, left, y - 0.75 * size, left + wide, y + DESCENT * size)


def boxes(svg: str) -> tuple[list[Box], list[Box]]:
    """The texts outside neurons, and the neurons, bias units and dots of the ellipses."""
    root = ET.fromstring(svg)
    circles = []
    for circle in root.iter(f"{SVG}circle"):
        x, y, r = (float(circle.get(name, "")) for name in ("cx", "cy", "r"))
        circles.append(Box(f"neuron at {x:g}, {y:g}", x - r, y - r, x + r, y + r))
    # Each stands twice: a halo, then the ink. Numbers inside neurons have no halo.
    halos = [text for text in root.iter(f"{SVG}text") if text.get("stroke")]
    return [text_box(text) for text in halos], circles


def assert_legible(network: Network, x: ArrayLike | None = None) -> None:
    texts, circles = boxes(to_svg(network, x))
    covered = [(a.what, b.what) for a, b in combinations(texts, 2) if a.covers(b)]
    covered += [(a.what, b.what) for a in texts for b in circles if a.covers(b)]
    assert not covered, covered


WORDS = ("mass", "wide", "WWWW", "mean fractal dimension", "illness", "\N{GREEK SMALL LETTER MU}g")


def names(rng: random.Random, count: int) -> list[str]:
    """Distinct names of one to eighty letters."""
    return [" ".join([*rng.choices(WORDS, k=rng.randint(0, 5)), str(i)]) for i in range(count)]


def any_network(seed: int) -> Network:
    """Layers that read any earlier ones, heads at any depth, long names, labels and units."""
    rng = random.Random(seed)
    size = rng.choice([1, 3, 12, 13, 40])
    features, units = (names(rng, size) if rng.random() < 0.5 else () for _ in range(2))
    layers: list[Dense] = []
    for number, name in enumerate(names(rng, rng.randint(1, 7))):
        before = ["x", *(layer.name for layer in layers)]
        reads = rng.sample(before, min(len(before), rng.randint(1, 3)))
        functions: list[ActivationName] = ["relu", "tanh", "sigmoid", "identity"]
        activation = rng.choice(functions)
        layers.append(
            Dense(f"{number} {name}".strip(), rng.choice([1, 2, 5, 12, 13, 30]), activation, reads)
        )
    outputs: list[Output] = []
    read = {name for layer in layers for name in layer.reads or ()}
    for layer in layers:
        assert layer.units is not None
        for _ in range(rng.randint(0 if layer.name in read else 1, 2)):
            labels, kinds = (names(rng, layer.units) if rng.random() < 0.5 else () for _ in "lu")
            output = f"{len(outputs)} {names(rng, 1)[0]}"
            outputs.append(Output(output, layer.name, labels=labels, units=kinds))
    return Network.define(
        Input(size, features=tuple(features), units=tuple(units)), layers, outputs, seed=seed
    )


EXAMPLES = {
    "3-3-2": Network.chain([3, 3, 2], "sigmoid"),
    "30-64-32-2": Network.chain([30, 64, 32, 2], "relu", "softmax", labels=("no", "malignant")),
    **{name: example.network() for name, example in ZOO.items()},
}


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_usual_networks_are_legible(name: str, filled: bool) -> None:
    network = EXAMPLES[name]
    x = ZOO[name].held_out()[0].x if name in ZOO else np.linspace(-1e5, 1e-7, network.input.size)
    assert_legible(network, x if filled else None)


@pytest.mark.parametrize("seed", range(40))
def test_any_network_with_names_of_any_length_is_legible(seed: int) -> None:
    network = any_network(seed)
    x = np.random.default_rng(seed).normal(size=network.input.size) * 10.0 ** (seed % 9 - 4)
    assert_legible(network)
    assert_legible(network, x)
