"""Networks from a state: weights by name, in memory, as .npz or as .safetensors.

A state says nothing of activations, so they are given. Weights are (s_out, s_in), as PyTorch
and this package have them, which the widths of the layers one after another have to bear out.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.assembly import assemble
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.network import Network
from forwardpass.models.ports import Input
from forwardpass.models.state_files import read_state
from forwardpass.models.steps import Head, Linear, chain, real


def from_state(
    state: Mapping[str, ArrayLike] | str | os.PathLike[str],
    activations: Sequence[str],
    *,
    layers: Sequence[str] | None = None,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str = "y",
    labels: Sequence[str] = (),
    units: Sequence[str] = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
) -> Network:
    """Return the chain of dense layers whose parameters a state holds.

    state is a mapping such as PyTorch's `state_dict`, or the path of an .npz or .safetensors
    file: `LAYER.weight` (s_out, s_in) and, where there is one, `LAYER.bias` (s_out,).
    activations has one name in ACTIVATIONS a layer, the last layer's included. Layers are in
    the order of the numbers in their names, 10 after 2; where names differ in more than
    numbers, layers says the order.

    Raises UnsupportedSourceError, which names the tensor or file, for what is not of this
    form, MissingLibraryError if a file's format takes a library, NetworkError for shapes that
    do not fit.
    """
    if isinstance(state, Mapping):
        origin, tensors = "state", state
    else:
        origin, tensors = Path(state).name, read_state(Path(state))
    parameters = _by_layer(origin, tensors)
    order = _natural_order(origin, parameters) if layers is None else tuple(layers)
    if sorted(order) != sorted(parameters):
        raise NetworkError(
            origin,
            expected=f"layers to name each of {', '.join(parameters)} once",
            got=", ".join(order),
            fix="name them in the order in which they are computed",
        )
    _check_orientation(origin, [parameters[layer] for layer in order])
    _check_activations(order, activations)
    operations = [
        (layer, Linear(**parameters[layer], activation=activation), f"layer {layer!r} of {origin}")
        for layer, activation in zip(order, activations, strict=True)
    ]
    source = Input(parameters[order[0]]["W"].shape[1]) if input is None else input
    steps = chain(source.name, operations)
    head = Head(name=output, reads=(order[-1],), labels=tuple(labels), units=tuple(units))
    return assemble(
        source, steps, [head], name=name, provenance={"source": origin} | dict(provenance or {})
    )


_Parameters: TypeAlias = dict[str, NDArray[np.float64]]
"""W and, where there is one, b: `Linear`'s arguments."""


def _by_layer(origin: str, tensors: Mapping[str, ArrayLike]) -> dict[str, _Parameters]:
    """Return each layer's parameters; raises UnsupportedSourceError for any other tensor."""
    parameters: dict[str, _Parameters] = {}
    for name, values in tensors.items():
        part = f"tensor {name!r} of {origin}"
        layer, _, kind = name.rpartition(".")
        field, axes = {"weight": ("W", 2), "bias": ("b", 1)}.get(kind, ("", None))
        array = real(part, "values", values)
        if not layer or array.ndim != axes:
            raise UnsupportedSourceError(
                part,
                f"of shape {array.shape}, no parameter of a dense layer",
                "expected LAYER.weight of shape (s_out, s_in) and LAYER.bias of shape (s_out,)",
            )
        parameters.setdefault(layer, {})[field] = array
    for layer, own in parameters.items():
        if "W" not in own:
            raise UnsupportedSourceError(
                f"tensor '{layer}.bias' of {origin}",
                "a bias without a weight",
                f"add {layer}.weight",
            )
    if not parameters:
        raise UnsupportedSourceError(origin, "no tensors in it", "expected LAYER.weight")
    return parameters


def _natural_order(origin: str, layers: Collection[str]) -> tuple[str, ...]:
    if len({re.sub(r"\d+", "", layer) for layer in layers}) > 1:
        raise NetworkError(
            origin,
            expected="layers whose names differ in numbers alone",
            got=", ".join(layers),
            fix="say their order, as in layers=['encoder', 'decoder']",
        )
    return tuple(sorted(layers, key=lambda layer: [int(n) for n in re.findall(r"\d+", layer)]))


def _check_orientation(origin: str, layers: Sequence[_Parameters]) -> None:
    """Raise NetworkError if all weights fit one another and their biases only transposed."""
    transposed = [layer["W"].T for layer in layers]
    if not _fit([layer["W"] for layer in layers], layers) and _fit(transposed, layers):
        raise NetworkError(
            origin,
            expected="weights of shape (s_out, s_in)",
            got="(s_in, s_out): they fit one another only transposed",
            fix="pass a mapping with each weight's W.T",
        )


def _fit(weights: Sequence[NDArray[np.float64]], layers: Sequence[_Parameters]) -> bool:
    follow = all(W.shape[1] == len(before) for before, W in pairwise(weights))
    return follow and all(
        "b" not in layer or layer["b"].shape == W.shape[:1]
        for W, layer in zip(weights, layers, strict=True)
    )


def _check_activations(layers: Sequence[str], activations: Sequence[str]) -> None:
    known = all(activation in ACTIVATIONS for activation in activations)
    if isinstance(activations, str) or len(activations) != len(layers) or not known:
        raise NetworkError(
            "activations",
            expected=f"one for each of the layers {', '.join(layers)}, out of "
            f"{', '.join(ACTIVATIONS)}",
            got=repr(activations),
            fix="name the last layer's too: 'identity' if it has none",
        )
