"""Three answers from three exercises: a man's weight, waist and pulse.

Data: A. C. Linnerud, in M. Tenenhaus, La regression PLS (1998); the copy that comes with
scikit-learn. Twenty men are far too few to predict from, as the held-out figures show.
"""

from typing import Any, Final

from numpy.typing import NDArray

from forwardpass.models.layers import Dense
from forwardpass.models.network import Input, Network, Output
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "linnerud"
EXERCISES: Final = ("chins", "situps", "jumps")
UNITS: Final = {"weight": "lb", "waist": "in", "pulse": "1/min"}
"""Units of the answers, by output name."""


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (3,) of the training rows."""
    return Network.define(
        Input(len(EXERCISES), features=EXERCISES, mean=mean, scale=scale),
        [
            Dense("trunk", 3, "tanh"),
            *(Dense(answer, 1, "identity", reads="trunk") for answer in UNITS),
        ],
        [Output(answer, answer, labels=(answer,), units=(UNITS[answer],)) for answer in UNITS],
        name=NAME,
        provenance={
            "data": "Linnerud, 20 men of a fitness club; M. Tenenhaus (1998), "
            "as in scikit-learn's load_linnerud",
            "intended use": "an example of three outputs, no more",
            "limits": "20 men are too few to predict from",
        },
    )


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the men that training never saw: x (5, 3), truth of each output (5, 1)."""
    return load(NAME).held_out
