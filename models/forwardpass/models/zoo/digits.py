"""An autoencoder of handwritten digits: 64 pixels, a code of 12 numbers, the 64 pixels again.

Data: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998); the copy
that comes with scikit-learn, 1797 images of 8x8 pixels.
"""

from typing import Any, Final

from numpy.typing import NDArray

from forwardpass.models.layers import Dense
from forwardpass.models.network import Input, Network, Output
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "digits_autoencoder"
SIDE: Final = 8
PIXELS: Final = tuple(f"pixel {row},{column}" for row in range(SIDE) for column in range(SIDE))
"""Names of pixels, row by row from the top left; intensities are 0 (paper) to 16 (ink)."""


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (64,) of the training rows."""
    return Network.define(
        Input(len(PIXELS), features=PIXELS, mean=mean, scale=scale),
        [
            Dense("encoder", 40, "relu"),
            Dense("code", 12, "tanh"),
            Dense("decoder", 40, "relu"),
            Dense("reconstruction", len(PIXELS), "identity"),
        ],
        [
            Output("code", "code", description="the image in 12 numbers from -1 to 1"),
            Output(
                "reconstruction",
                "reconstruction",
                labels=PIXELS,
                description="the image from its code, intensities 0 to 16",
            ),
        ],
        name=NAME,
        provenance={
            "data": "Optical Recognition of Handwritten Digits, 1797 images; E. Alpaydin, "
            "C. Kaynak (1998), as in scikit-learn's load_digits",
            "intended use": "an example of an autoencoder: a code and a reconstruction",
            "limits": "digits of 8 x 8 pixels, centered and scaled as the data set's are",
        },
    )


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the images that training never saw: x (360, 64), which are their own truth."""
    return load(NAME).held_out
