"""The lecture's network with y in R^2: a tumor's worst radius and texture from its means."""

from typing import Any, Final

from numpy.typing import NDArray

from forwardpass.models.network import Input, Network
from forwardpass.models.zoo.breast_cancer import DATA
from forwardpass.models.zoo.lecture_3_3_1 import FEATURES, UNITS
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "lecture_3_3_2"
LABELS: Final = ("worst radius", "worst texture")


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (3,) of the training rows."""
    return Network.chain(
        [3, 3, 2],
        "sigmoid",
        "identity",
        input=Input(3, features=FEATURES, units=UNITS, mean=mean, scale=scale),
        output="y",
        labels=LABELS,
        units=("", "gray levels"),
        name=NAME,
        provenance={"data": DATA},
    )


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the patients that training never saw: x (114, 3), truth of y (114, 2)."""
    return load(NAME).held_out
