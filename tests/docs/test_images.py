"""The committed pictures are those that the project draws."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from forwardpass.models.zoo import ZOO
from forwardpass.models.zoo.training.plots import PLOTS, save_plots

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PLOT_FILES = {file for files in PLOTS.values() for file in files}


def test_the_pictures_are_as_drawn_now() -> None:
    pictures = runpy.run_path(str(IMAGES / "redraw.py"))["pictures"]()
    committed = {path.name for path in IMAGES.iterdir() if path.suffix in (".svg", ".png")}
    assert committed == set(pictures) | PLOT_FILES
    for name, svg in pictures.items():
        assert (IMAGES / name).read_text(encoding="utf-8") == svg, f"{name}: make docs-images"


@pytest.mark.parametrize("network", PLOTS)
def test_the_plots_show_what_is_plotted_now(network: str, tmp_path: Path) -> None:
    """But for the last digits of places, which another version of matplotlib rounds apart."""
    example = ZOO[network]
    for path in save_plots(network, example.network(), example.held_out(), tmp_path):
        committed = IMAGES / path.name
        if path.suffix == ".png":
            now, then = imread(path), imread(committed)
            assert now.shape == then.shape, f"{path.name}: make docs-images"
            assert np.abs(now - then).mean() < 0.02, f"{path.name}: make docs-images"
        else:
            assert texts(path) == texts(committed), f"{path.name}: make docs-images"


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)<", path.read_text(encoding="utf-8"))
