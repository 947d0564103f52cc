"""Train the example networks and write `zoo/data/`: `python -m forwardpass.models.zoo.train`.

Needs scikit-learn (the extra `train`) for its data alone, and matplotlib to plot how well they
do. Equal versions on one machine give equal files to the byte.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network, Output
from forwardpass.models.zoo import (
    breast_cancer,
    datasets,
    digits,
    lecture_3_3_1,
    lecture_3_3_2,
    linnerud,
)
from forwardpass.models.zoo.backpropagation import Array
from forwardpass.models.zoo.datasets import Dataset, Rows
from forwardpass.models.zoo.figures import figures
from forwardpass.models.zoo.fit import Schedule, fit
from forwardpass.models.zoo.stored import HeldOut, Parameters, Stored, load, save, with_parameters

logger = logging.getLogger(__name__)

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one example network is made. Settings were chosen on the training rows alone."""

    architecture: Callable[[NDArray[Any], NDArray[Any]], Network]
    dataset: Callable[[], Dataset]
    schedule: Schedule
    connected: Callable[[], Mapping[str, NDArray[np.bool_]]] = dict
    """As in `fit`."""
    one_scale: bool = False
    """Whether all columns share a standard deviation: those of an image, where a pixel that is
    almost always blank would otherwise weigh as much as any."""


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
    }
)


def train(name: str) -> Stored:
    """Train one example network anew; the same result at every call."""
    recipe = RECIPES[name]
    rows, held_out = recipe.dataset().split()
    mean, scale = _scaling(rows.x, one_scale=recipe.one_scale)
    network = recipe.architecture(mean, scale)
    regressions = {
        output: _scaling(rows.y[output.name], one_scale=recipe.one_scale)
        for output in network.outputs
        if output.name in rows.y and network.layer(output.layer).activation == "identity"
    }
    logger.info("%s: %s", name, recipe.schedule)
    parameters = fit(
        network, rows.x, _standardized(rows, regressions), recipe.schedule, recipe.connected()
    )
    parameters = _unstandardized(parameters, regressions)
    unseen = HeldOut(
        held_out.x.astype(np.float32),
        {output: y.astype(np.float32) for output, y in held_out.y.items()},
    )
    quality = figures(with_parameters(network, parameters), unseen)
    return Stored(
        mean=mean,
        scale=scale,
        parameters=parameters,
        held_out=unseen,
        provenance={
            "split": f"{len(rows.x)} rows to train on, {len(unseen.x)} held out",
            "training": str(recipe.schedule),
            **{f"held-out {output}": text for output, text in quality.items()},
        },
    )


def main() -> None:
    """Train the networks named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Train the example networks.")
    parser.add_argument("names", nargs="*", help=f"which ones: {', '.join(RECIPES)}; all if none")
    parser.add_argument("--out", type=Path, default=DATA, help="folder for the .npz files")
    parser.add_argument("--plots", type=Path, help="folder to plot into how well they do")
    parser.add_argument(
        "--plots-only", action="store_true", help="plot the committed networks, train none"
    )
    options = parser.parse_args()
    unknown = ", ".join(sorted(set(options.names) - set(RECIPES)))
    if unknown:
        parser.error(f"no example network {unknown}; there are {', '.join(RECIPES)}")
    if options.plots_only and options.plots is None:
        parser.error("--plots-only needs --plots and the folder to plot into")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in options.names or RECIPES:
        stored = load(name) if options.plots_only else train(name)
        for key, text in stored.provenance.items():
            logger.info("  %s: %s", key, text)
        if not options.plots_only:
            save(stored, options.out / f"{name}.npz")
        if options.plots is not None:
            _plot(name, stored, options.plots)


def _plot(name: str, stored: Stored, folder: Path) -> None:
    # matplotlib takes longer to import than a small network to train.
    from forwardpass.models.zoo.plots import save_plots

    for path in save_plots(
        name, stored.restore(RECIPES[name].architecture), stored.held_out, folder
    ):
        logger.info("  plotted %s", path)


def _scaling(columns: Array, *, one_scale: bool) -> tuple[Array, Array]:
    """Return mean and standard deviation of each column (N, n) -> (n,), (n,)."""
    mean = columns.mean(axis=0)
    deviation = np.sqrt(((columns - mean) ** 2).mean(axis=None if one_scale else 0))
    return mean, np.broadcast_to(deviation, mean.shape)


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
    """Return parameters whose regressions answer in their own units: y * scale + mean."""
    folded = dict(parameters)
    for output, (mean, scale) in regressions.items():
        W, b = parameters[output.layer]
        folded[output.layer] = (W * scale[:, np.newaxis], b * scale + mean)
    return folded


if __name__ == "__main__":
    main()
