"""A breast tumor from 30 measurements of its cell nuclei: two heads on a shared trunk.

`worst` predicts the ten worst-case measurements without seeing them: the trunk's weights from
these ten columns are exactly zero. `malignancy` reads the trunk and, past it, all 30.

Data: W. N. Street, W. H. Wolberg, O. L. Mangasarian, Nuclear feature extraction for breast
tumor diagnosis, SPIE 1905 (1993); the copy that comes with scikit-learn, 569 patients.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.layers import Dense
from forwardpass.models.network import Input, Network, Output
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "breast_cancer"
DATA: Final = (
    "Breast Cancer Wisconsin (Diagnostic), 569 patients; W. N. Street, W. H. Wolberg, "
    "O. L. Mangasarian (1993), as in scikit-learn's load_breast_cancer"
)

MEASUREMENTS: Final = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
FEATURES: Final = (
    *(f"mean {measurement}" for measurement in MEASUREMENTS),
    *(f"{measurement} error" for measurement in MEASUREMENTS),
    *(f"worst {measurement}" for measurement in MEASUREMENTS),
)
"""Columns of the data set, in order."""
# Texture is a standard deviation of gray levels. The data set gives no unit of length for
# radius, perimeter and area, and the others are ratios.
UNITS: Final = tuple(
    "gray levels" if measurement == "texture" else "" for measurement in MEASUREMENTS
)

TRUNK_UNITS: Final = 16


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (30,) of the training rows."""
    return Network.define(
        Input(len(FEATURES), features=FEATURES, units=UNITS * 3, mean=mean, scale=scale),
        [
            Dense("trunk", TRUNK_UNITS, "tanh"),
            Dense("worst", len(MEASUREMENTS), "identity"),
            Dense("malignancy", 1, "sigmoid", reads=("trunk", "x")),
        ],
        [
            Output(
                "worst",
                "worst",
                labels=FEATURES[-len(MEASUREMENTS) :],
                units=UNITS,
                description="worst-case measurements, predicted from the other twenty",
            ),
            Output(
                "malignancy",
                "malignancy",
                labels=("benign", "malignant"),
                description="probability that the tumour is malignant",
            ),
        ],
        name=NAME,
        provenance={
            "data": DATA,
            "intended use": "an example of several outputs; no diagnosis of anybody",
            "limits": "patients of one university's hospitals; cells from a fine needle, in images",
        },
    )


def connected() -> dict[str, NDArray[np.bool_]]:
    """Return which weights exist: none from the worst-case measurements to the trunk."""
    seen = [not feature.startswith("worst") for feature in FEATURES]
    return {"trunk": np.tile(seen, (TRUNK_UNITS, 1))}


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the patients that training never saw: x (114, 30), truth of both outputs."""
    return load(NAME).held_out
