"""Plots of the example networks' quality on rows that training never saw.

Needs matplotlib and scikit-learn (the extra `train`). The same version of matplotlib gives the
same bytes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from forwardpass.models.network import Network
from forwardpass.models.picture.strokes import NEGATIVE, POSITIVE
from forwardpass.models.zoo import breast_cancer, digits, linnerud
from forwardpass.models.zoo.stored import HeldOut
from forwardpass.models.zoo.training import datasets

_WITHOUT_A_STAMP: Mapping[str, Mapping[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}
_FULLEST = 0.75
"""Opacity of the largest count, low enough to read its number."""


def save_plots(name: str, network: Network, held_out: HeldOut, folder: Path) -> list[Path]:
    """Draw an example network's plots into a folder; returns their files, if any."""
    paths = []
    for file, plot in PLOTS.get(name, {}).items():
        path = folder / file
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            # Texts stay texts, and ids in the file are reproducible.
            matplotlib.rc("svg", fonttype="none", hashsalt="forwardpass")
            matplotlib.rc("axes.spines", top=False, right=False)
            plot(network, held_out).savefig(path, metadata=dict(_WITHOUT_A_STAMP[path.suffix]))
        paths.append(path)
    return paths


def confusion(network: Network, held_out: HeldOut) -> Figure:
    """Return the confusion matrix: how many tumors of each class got which answer."""
    truth = held_out.truth["malignancy"][:, 0] > 0.5
    answer = network(held_out.x)["malignancy"][:, 0] > 0.5
    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for measured in (False, True):
        for answered in (False, True):
            count = int(((truth == measured) & (answer == answered)).sum())
            share = _FULLEST * count / int((truth == measured).sum())
            color = POSITIVE if measured == answered else NEGATIVE
            axes.add_patch(Rectangle((answered, measured), 1, 1, color=color, alpha=share, lw=0))
            axes.text(answered + 0.5, measured + 0.5, str(count), ha="center", va="center", size=16)
    kinds = ("benign", "malignant")
    axes.set(xlim=(0, 2), ylim=(2, 0), aspect="equal", xlabel="answer", ylabel="truth")
    axes.set_xticks([0.5, 1.5], kinds)
    axes.set_yticks([0.5, 1.5], kinds, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.set_title(f"{len(truth)} patients never seen", size=11)
    return figure


def reconstructions(network: Network, held_out: HeldOut) -> Figure:
    """Return an image of each digit, above its reconstruction."""
    classes = datasets.digits().held_out_strata()
    rows = [int(np.flatnonzero(classes == digit)[0]) for digit in range(10)]
    images = held_out.x[rows]
    figure = Figure(figsize=(7.2, 1.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic([images, network(images)["reconstruction"]]), cmap="gray_r", vmin=0, vmax=16)
    axes.set_xticks([])
    pitch = digits.SIDE + 1
    middle = (digits.SIDE - 1) / 2
    axes.set_yticks([middle, pitch + middle], ["image", "from its code"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def mosaic(lines: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return images side by side, a blank pixel apart: each line (N, 64) -> (_, N * 9 - 1)."""
    pitch = digits.SIDE + 1
    canvas = np.zeros((len(lines) * pitch - 1, len(lines[0]) * pitch - 1))
    for down, line in enumerate(lines):
        for along, pixels in enumerate(line):
            image = pixels.reshape(digits.SIDE, digits.SIDE)
            y, x = down * pitch, along * pitch
            canvas[y : y + digits.SIDE, x : x + digits.SIDE] = image
    return canvas


def code_space(network: Network, held_out: HeldOut) -> Figure:
    """Return the images along the two directions in which their codes vary most."""
    classes = datasets.digits().held_out_strata()
    code = network(held_out.x)["code"]
    centred = code - code.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a direction is arbitrary: make its largest component positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    places = centred @ (directions * np.sign(largest))[:2].T
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for digit in range(10):
        x, y = places[classes == digit].T
        axes.scatter(x, y, marker=f"${digit}$", color=f"C{digit}", s=36, lw=0.2)
    axes.set(xlabel="first principal component of the code", ylabel="second")
    axes.set_title(f"{len(code)} images never seen, each drawn as its digit", size=11)
    return figure


def residuals(network: Network, held_out: HeldOut) -> Figure:
    """Return the error of each answer, over the answer."""
    answers = network(held_out.x)
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(linnerud.UNITS)))
    for axes, (name, unit) in zip(panels, linnerud.UNITS.items(), strict=True):
        answer = answers[name][:, 0]
        axes.axhline(0, color="#8c959f", lw=1)
        axes.scatter(answer, held_out.truth[name][:, 0] - answer, color=POSITIVE)
        axes.set(title=name, xlabel=f"answer ({unit})", ylabel=f"truth less answer ({unit})")
    return figure


PLOTS: Mapping[str, Mapping[str, Callable[[Network, HeldOut], Figure]]] = MappingProxyType(
    {
        breast_cancer.NAME: {"breast_cancer_confusion.svg": confusion},
        digits.NAME: {
            "digits_reconstruction.png": reconstructions,
            "digits_code.svg": code_space,
        },
        linnerud.NAME: {"linnerud_residuals.svg": residuals},
    }
)
"""Drawing functions, by network and by file."""
