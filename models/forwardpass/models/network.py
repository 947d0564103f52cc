"""Networks as immutable values: layers that read earlier layers, and named outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.building import build_layers, chain_layers
from forwardpass.models.consistency import check_layers, checked_outputs
from forwardpass.models.errors import NetworkError
from forwardpass.models.forward import forward
from forwardpass.models.layers import Dense, Layer
from forwardpass.models.names import check_name
from forwardpass.models.ports import Input, Output

__all__ = ["Input", "Network", "Output"]


@dataclass(frozen=True, repr=False)
class Network:
    """A feed-forward network. Equal networks have equal bits.

    Layer k of `layers` is the lecture's L_{k+2}; L_1 is the input. `Network.chain` and
    `Network.define` are the ways to write one down.

    Raises NetworkError, which names the layer or output, unless shapes fit, names differ,
    layers read only what comes before them, and everything leads to an output.
    """

    input: Input
    layers: tuple[Layer, ...]
    """In an order in which they can be computed."""
    outputs: tuple[Output, ...]
    """In the order in which answers are given."""
    name: str = "network"
    """The model's name in a repository."""
    provenance: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Where the network comes from and how well it does: texts by name. Read-only."""

    def __post_init__(self) -> None:
        check_name("network name", self.name)
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "provenance", _checked_provenance(self.provenance))
        check_layers(self.input, self.layers)
        object.__setattr__(self, "outputs", checked_outputs(self.input, self.layers, self.outputs))

    @classmethod
    def chain(
        cls,
        sizes: Sequence[int],
        activation: str | Sequence[str] = "relu",
        output_activation: str = "identity",
        *,
        parameters: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
        init: str | None = None,
        seed: int | None = 0,
        input: Input | None = None,  # noqa: A002 - the field's name
        output: str = "y",
        labels: Sequence[str] = (),
        units: Sequence[str] = (),
        thresholds: Sequence[float] = (),
        name: str = "network",
        provenance: Mapping[str, str] | None = None,
    ) -> "Network":
        """Return the network of `sizes` (s_1, ..., s_{n_l}) whose layers L2, L3, ... are a chain.

        activation is that of every hidden layer, or one a hidden layer; parameters holds
        (W^(l), b^(l)) for l = 1, 2, ... and None draws them as `define` does. labels, units and
        thresholds are those of the one output.

            Network.chain([3, 3, 1], "sigmoid", "sigmoid")

        Raises NetworkError as the class does.
        """
        layers = chain_layers(sizes, activation, output_activation, parameters, init)
        if input is not None and input.size != sizes[0]:
            raise NetworkError(
                f"input {input.name!r}",
                expected=f"size {sizes[0]}, the first of {list(sizes)}",
                got=str(input.size),
                fix="give both the same size",
            )
        return cls.define(
            sizes[0] if input is None else input,
            layers,
            [
                Output(
                    output,
                    layers[-1].name,
                    labels=tuple(labels),
                    units=tuple(units),
                    thresholds=tuple(thresholds),
                )
            ],
            name=name,
            seed=seed,
            provenance=provenance,
        )

    @classmethod
    def define(
        cls,
        input: Input | int,  # noqa: A002 - the field's name
        layers: Sequence[Dense],
        outputs: Sequence[Output | str] | None = None,
        *,
        name: str = "network",
        seed: int | None = 0,
        provenance: Mapping[str, str] | None = None,
    ) -> "Network":
        """Return the network that is written down as layers with any feed-forward connections.

        input may be its size alone. An output that is text is a layer's name, and its own;
        None makes an output of the last layer. Parameters that are not given are drawn from
        seed, each layer from a stream of its own, so that layers added at the end leave the
        others as they are; seed None draws differently each time.

        Raises NetworkError as the class does.
        """
        given = input if isinstance(input, Input) else Input(input)
        built = build_layers(given, layers, seed)
        if outputs is None:
            outputs = [layer.name for layer in built[-1:]]
        return cls(
            given,
            built,
            tuple(Output(each, each) if isinstance(each, str) else each for each in outputs),
            name,
            {} if provenance is None else provenance,
        )

    def __call__(self, x: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """Return the outputs for x, by name: `forward(self, x)`."""
        return forward(self, x)

    @property
    def n_layers(self) -> int:
        """The lecture's n_l: the input counts as a layer."""
        return len(self.layers) + 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of units of each layer, s_1 to s_{n_l}."""
        return (self.input.size, *(layer.units for layer in self.layers))

    @property
    def parameter_count(self) -> int:
        """Number of weights and biases; the scaling of the input is not counted."""
        return sum(layer.W.size + layer.b.size for layer in self.layers)

    def layer(self, name: str) -> Layer:
        """Return the layer of that name; raises NetworkError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise NetworkError(
            f"network {self.name!r}",
            expected=f"one of its layers ({', '.join(layer.name for layer in self.layers)})",
            got=repr(name),
            fix="name one of them",
        )

    def number(self, name: str) -> int:
        """Return l of the layer L_l of that name; the input's, and its scalings', is 1.

        Raises NetworkError if there is none.
        """
        if any(name == each.name for each in self.input.scaled):
            return 1
        return self.layers.index(self.layer(name)) + 2

    def blocks(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Return the columns of a layer's W by the layer, or input, that they weigh.

        In the order of its `reads`: read-only views of shape (s_out, width). Raises
        NetworkError if there is no layer of that name.
        """
        layer = self.layer(name)
        ends = np.cumsum([self.sizes[self.number(source) - 1] for source in layer.reads])
        return dict(zip(layer.reads, np.split(layer.W, ends[:-1], axis=1), strict=True))

    def to_svg(self, row: ArrayLike | None = None) -> str:
        """Return a picture, an SVG document: `forwardpass.models.draw.to_svg`.

        Given one row of raw features (s_1,), it shows what the network makes of them. Raises
        TensorError if row is none.
        """
        from forwardpass.models import draw

        return draw.to_svg(self, row)

    def _repr_svg_(self) -> str:
        # What a notebook shows.
        return self.to_svg()

    def __repr__(self) -> str:
        outputs = ", ".join(output.name for output in self.outputs)
        sizes = "-".join(map(str, self.sizes))
        return f"<Network {self.name!r}: {sizes}, {self.input.name} -> {outputs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: a mappingproxy cannot be pickled or copied.
        provenance = dict(self.provenance)
        return Network, (self.input, self.layers, self.outputs, self.name, provenance)


def _checked_provenance(provenance: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in provenance.items():
        if not (isinstance(key, str) and key and isinstance(value, str)):
            raise NetworkError(
                "provenance",
                expected="texts by name",
                got=f"{key!r}: {value!r}",
                fix="write numbers as text",
            )
    return MappingProxyType(dict(provenance))
