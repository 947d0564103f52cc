"""The lecture's first network, 3 inputs, 3 hidden units, 1 output: malignancy of a tumor."""

from typing import Any, Final

from numpy.typing import NDArray

from forwardpass.models.network import Input, Network
from forwardpass.models.zoo.breast_cancer import DATA
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "lecture_3_3_1"
FEATURES: Final = ("mean radius", "mean texture", "mean concave points")
"""Three measurements that are informative together: size, gray levels, outline."""
UNITS: Final = ("", "gray levels", "")


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (3,) of the training rows."""
    return Network.chain(
        [3, 3, 1],
        "sigmoid",
        "sigmoid",
        input=Input(3, features=FEATURES, units=UNITS, mean=mean, scale=scale),
        output="malignancy",
        labels=("benign", "malignant"),
        name=NAME,
        provenance={"data": DATA},
    )


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the patients that training never saw: x (114, 3), truth of malignancy (114, 1)."""
    return load(NAME).held_out
