"""Networks as immutable values: layers that read earlier layers, and named outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import AnyActivation
from forwardpass.models.categorical import Categorical
from forwardpass.models.checks import check_name
from forwardpass.models.consistency import check_inputs, check_layers, checked_outputs
from forwardpass.models.errors import NetworkError
from forwardpass.models.explanation import Explanation, explain
from forwardpass.models.forward import forward
from forwardpass.models.layers import Dense, Layer
from forwardpass.models.normalization import BatchNorm
from forwardpass.models.parameters import build_layers, chain_layers
from forwardpass.models.ports import Input, Output

__all__ = ["Input", "Inputs", "Network", "Output", "as_inputs"]

Inputs: TypeAlias = Input | Categorical | Sequence[Input | Categorical]
"""What a network takes as its inputs: one or several."""


@dataclass(frozen=True, repr=False, init=False)
class Network:
    """A feed-forward network. Equal networks have equal bits.

    Layer k of `layers` is the lecture's L_{k+2}; L_1 are the inputs. `Network.chain` and
    `Network.define` build one.

    Raises NetworkError, which names the layer or output, unless shapes fit, names are
    distinct, layers only read earlier ones, and everything leads to an output.
    """

    inputs: tuple[Input | Categorical, ...]
    """Inputs in the order of the file's."""
    layers: tuple[Layer, ...]
    """Layers in an order of computation."""
    outputs: tuple[Output, ...]
    """Outputs in the order of the answers."""
    name: str
    """Name of the model in a repository."""
    provenance: Mapping[str, str] = field(hash=False)
    """Origin and quality of the network: texts by name, read-only."""

    def __init__(
        self,
        input: Inputs = (),  # noqa: A002 - one of them, or several
        layers: Iterable[Layer] = (),
        outputs: Sequence[Output] = (),
        name: str = "network",
        provenance: Mapping[str, str] = MappingProxyType({}),
        *,
        inputs: Inputs = (),
    ) -> None:
        """Take one input or several, as `input`, or as `inputs`, by which `replace` names them."""
        check_name("network name", name)
        checked = as_inputs(input) or as_inputs(inputs)
        check_inputs(checked)
        built = tuple(layers)
        check_layers(checked, built)
        for field_name, value in (
            ("inputs", checked),
            ("layers", built),
            ("outputs", checked_outputs(checked, built, outputs)),
            ("name", name),
            ("provenance", _checked_provenance(provenance)),
        ):
            object.__setattr__(self, field_name, value)

    @property
    def input(self) -> Input:
        """The one input, of numbers; raises NetworkError if there are others: see `inputs`."""
        (first, *others) = self.inputs
        if others or not isinstance(first, Input):
            names = ", ".join(
                f"{each.name!r}" + (" of categories" if isinstance(each, Categorical) else "")
                for each in self.inputs
            )
            raise NetworkError(
                f"network {self.name!r}",
                expected="one input, of numbers",
                got=names,
                fix="read network.inputs",
            )
        return first

    @classmethod
    def chain(
        cls,
        sizes: Sequence[int],
        activation: AnyActivation | BatchNorm | Sequence[AnyActivation | BatchNorm] = "relu",
        output_activation: AnyActivation | BatchNorm = "identity",
        *,
        parameters: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
        init: str | None = None,
        seed: int | None = 0,
        input: Inputs | None = None,  # noqa: A002 - the constructor's name
        output: str = "y",
        labels: Sequence[str] = (),
        units: Sequence[str] = (),
        thresholds: Iterable[float] = (),
        name: str = "network",
        provenance: Mapping[str, str] | None = None,
    ) -> "Network":
        """Return the network of `sizes` (s_1, ..., s_{n_l}) whose layers L2, L3, ... are a chain.

        activation is one for all hidden layers, or one per hidden layer; parameters holds
        (W^(l), b^(l)) for l = 1, 2, ..., and None draws them as in `define`. labels, units and
        thresholds belong to the one output.

            Network.chain([3, 3, 1], "sigmoid", "sigmoid")

        Whole networks one after the other: `forwardpass.models.chain`.

        Raises NetworkError like the class.
        """
        layers = chain_layers(sizes, activation, output_activation, parameters, init)
        inputs = as_inputs(int(sizes[0]) if input is None else input)
        width = sum(each.width for each in inputs)
        if width != sizes[0]:
            raise NetworkError(
                f"input{'s' * (len(inputs) > 1)} {', '.join(repr(each.name) for each in inputs)}",
                expected=f"size {sizes[0]}, the first of {list(sizes)}",
                got=str(width),
                fix="give both the same size",
            )
        return cls.define(
            inputs,
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
        input: Inputs | int,  # noqa: A002 - the constructor's name
        layers: Sequence[Dense],
        outputs: Sequence[Output | str] | None = None,
        *,
        name: str = "network",
        seed: int | None = 0,
        provenance: Mapping[str, str] | None = None,
    ) -> "Network":
        """Return a network of layers with any feed-forward connections.

        input: one or several, or just the size of one of numbers; the first layer reads all unless
        it names some. An output given as text has the name of its layer; None makes an output of
        the last layer. Missing parameters are drawn from seed, for each
        layer from a stream of its own, so that layers added at the end do not change the
        others; seed None draws differently each time.

        Raises NetworkError like the class.
        """
        given = as_inputs(input)
        check_inputs(given)
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

    def __call__(self, x: Any) -> dict[str, NDArray[np.float64]]:
        """Return the outputs for x, by name: `forward(self, x)`."""
        return forward(self, x)

    @property
    def n_layers(self) -> int:
        """The number of layers including the input, the lecture's n_l."""
        return len(self.layers) + 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of units of each layer, s_1 to s_{n_l}; s_1 is of all inputs together."""
        first = sum(each.width for each in self.inputs)
        return (first, *(layer.units for layer in self.layers))

    @property
    def parameter_count(self) -> int:
        """The number of weights and biases, without the scaling of the input."""
        return sum(layer.W.size + layer.b.size for layer in self.layers)

    def layer(self, name: str) -> Layer:
        """Return the layer with this name; raises NetworkError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise NetworkError(
            f"network {self.name!r}",
            expected=f"one of its layers ({', '.join(layer.name for layer in self.layers)})",
            got=repr(name),
            fix="name one of them",
        )

    def output(self, name: str | None = None) -> Output:
        """Return the output with this name; None is the only one a network has.

        Raises NetworkError if there is none, or no name and several outputs.
        """
        outputs = {output.name: output for output in self.outputs}
        if name is None and len(outputs) == 1:
            return self.outputs[0]
        if name is None or name not in outputs:
            raise NetworkError(
                f"network {self.name!r}",
                expected=f"one of its outputs ({', '.join(outputs)})",
                got="none" if name is None else repr(name),
                fix="name one of them",
            )
        return outputs[name]

    def number(self, name: str) -> int:
        """Return l of the layer L_l with this name; it is 1 for inputs and their scalings.

        Raises NetworkError if there is none.
        """
        if self._input_of(name) is not None:
            return 1
        return self.layers.index(self.layer(name)) + 2

    def width(self, name: str) -> int:
        """Return the number of columns that layers read of a layer, an input or a scaling.

        Raises NetworkError if there is none with this name.
        """
        source = self._input_of(name)
        return self.layer(name).units if source is None else source.width

    def _input_of(self, name: str) -> Input | Categorical | None:
        """Return the input that has this name, or a scaling with it."""
        for source in self.inputs:
            if any(name == each.name for each in source.scaled):
                return source
        return None

    def blocks(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Return the blocks of columns of a layer's W, by the layer or input that they weight.

        They are read-only views of shape (s_out, width), in the order of `reads`. Raises
        NetworkError if there is no layer with this name.
        """
        layer = self.layer(name)
        ends = np.cumsum([self.width(source) for source in layer.reads])
        return dict(zip(layer.reads, np.split(layer.W, ends[:-1], axis=1), strict=True))

    def explain(
        self,
        x: Any,
        output: str | None = None,
        column: int | str | None = None,
        *,
        baseline: ArrayLike | Mapping[str, Any] | None = None,
        steps: int = 64,
    ) -> Explanation:
        """Return how much each feature contributes to a column of an output: `explain(self, ...)`.

        See `forwardpass.models.explanation.explain`.
        """
        return explain(self, x, output, column, baseline=baseline, steps=steps)

    def to_svg(self, row: Any = None) -> str:
        """Return a picture as an SVG document: see `forwardpass.models.picture.svg.to_svg`.

        With one row of raw features (s_1,), or of several inputs, it also shows their activations
        and answers. Raises TensorError for an invalid row.
        """
        # Imported here, since computing needs no picture.
        from forwardpass.models.picture.svg import to_svg

        return to_svg(self, row)

    def _repr_svg_(self) -> str:
        # Called by notebooks.
        return self.to_svg()

    def __repr__(self) -> str:
        outputs = ", ".join(output.name for output in self.outputs)
        sizes = "-".join(map(str, self.sizes))
        inputs = ", ".join(source.name for source in self.inputs)
        return f"<Network {self.name!r}: {sizes}, {inputs} -> {outputs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, since a mappingproxy cannot be pickled or copied.
        provenance = dict(self.provenance)
        return Network, (self.inputs, self.layers, self.outputs, self.name, provenance)


def as_inputs(given: Inputs | int) -> tuple[Input | Categorical, ...]:
    """Return inputs as a tuple: one, several, or one of numbers by its size."""
    if isinstance(given, Input | Categorical):
        return (given,)
    return tuple(given) if isinstance(given, Sequence) else (Input(given),)


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
