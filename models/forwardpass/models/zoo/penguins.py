"""The species of a penguin, from its island, its sex and four measurements, any of them missing.

Data: K. B. Gorman, T. D. Williams, W. R. Fraser, Ecological sexual dimorphism and environmental
variability within a community of Antarctic penguins, PLoS ONE 9 (2014); the copy that comes with
palmerpenguins, 344 penguins.
"""

from typing import Any, Final

from numpy.typing import NDArray

from forwardpass.models.categorical import Categorical
from forwardpass.models.layers import Dense
from forwardpass.models.network import Input, Network, Output
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "penguins"
FEATURES: Final = ("bill length", "bill depth", "flipper length", "body mass")
UNITS: Final = ("mm", "mm", "mm", "g")
ISLANDS: Final = ("Biscoe", "Dream", "Torgersen")
SEXES: Final = ("female", "male", "unknown")
SPECIES: Final = ("Adelie", "Chinstrap", "Gentoo")


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (4,) of the training rows' measurements."""
    return Network.define(
        [
            Input(
                len(FEATURES),
                "measurements",
                FEATURES,
                UNITS,
                mean=mean,
                scale=scale,
                # So that a missing one is the mean, and 0 once it is scaled.
                fill=mean,
            ),
            Categorical("island", ISLANDS),
            Categorical("sex", SEXES, missing="unknown"),
        ],
        [Dense("hidden", 8, "tanh"), Dense("species", len(SPECIES), "softmax")],
        [Output("species", "species", labels=SPECIES, description="probability of each species")],
        name=NAME,
        provenance={
            "data": "Palmer penguins, 344 of three islands in Antarctica, 11 of them with missing "
            "values; K. B. Gorman, T. D. Williams, W. R. Fraser (2014), as in palmerpenguins' "
            "load_penguins",
            "intended use": "an example of categories and of missing values",
            "limits": "three species of three islands; an unknown island has no answer",
        },
    )


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the penguins that training never saw: x of 69 rows, truth of species (69, 3)."""
    return load(NAME).held_out
