"""Example networks, trained on real data, with held-out rows to try them on.

`ZOO["breast_cancer"].network()` is a network, `.held_out()` rows that training never saw.
They only need NumPy; `python -m forwardpass.models.zoo.training.train` trains them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from forwardpass.models.network import Network
from forwardpass.models.zoo.stored import HeldOut

__all__ = ["ZOO", "Example", "HeldOut"]


@dataclass(frozen=True)
class Example:
    """One example network, loaded on demand."""

    name: str
    """Name of the network, also as a model."""
    module: str
    """Name of its module in this package."""
    summary: str
    """One-line description of its answers."""

    def network(self) -> Network:
        """Return the network with its trained parameters."""
        network: Network = import_module(f"{__name__}.{self.module}").network()
        return network

    def held_out(self) -> HeldOut:
        """Return rows that training never saw."""
        held_out: HeldOut = import_module(f"{__name__}.{self.module}").held_out()
        return held_out


ZOO: Mapping[str, Example] = MappingProxyType(
    {
        example.name: example
        for example in (
            Example(
                "lecture_3_3_1",
                "lecture_3_3_1",
                "the lecture's first network: is a breast tumour malignant, from 3 measurements",
            ),
            Example(
                "lecture_3_3_2",
                "lecture_3_3_2",
                "the lecture's network with y in R^2: a tumour's worst radius and texture",
            ),
            Example(
                "breast_cancer",
                "breast_cancer",
                "two heads: malignancy and worst-case measurements of a breast tumour",
            ),
            Example(
                "digits_autoencoder",
                "digits",
                "handwritten 8x8 digits, encoded in 12 numbers and reconstructed from them",
            ),
            Example(
                "linnerud",
                "linnerud",
                "three outputs: weight, waist and pulse of a man, from his exercises",
            ),
            Example(
                "mnist_digits",
                "mnist",
                "which digit is it? handwritten ones, in images of 28x28 pixels",
            ),
            Example(
                "penguins",
                "penguins",
                "a penguin's species, from numbers and categories that may be missing",
            ),
            Example(
                "cartpole_policy",
                "cartpole",
                "a policy: push a cart left or right, to balance the pole on it",
            ),
        )
    }
)
"""Every example network by name."""
