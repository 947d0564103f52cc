"""Networks from a state: weights by name, in memory or in a file, .npz or .safetensors.

A state has no activations, so the caller passes them. A `weight` is (s_out, s_in), as in PyTorch,
Equinox and this package, a `kernel` of Flax and a `w` of Haiku (s_in, s_out): the name says it,
since the shape of a square matrix does not.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import ACTIVATIONS, AnyActivation, is_activation
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.agreement import Check, Reading
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.state_files import read_state
from forwardpass.models.importers.steps import Head, Linear, chain, real
from forwardpass.models.network import Network
from forwardpass.models.ports import Input


def from_state(
    state: Mapping[str, Any] | str | os.PathLike[str] | object,
    activations: Sequence[AnyActivation],
    *,
    layers: Sequence[str] | None = None,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str = "y",
    labels: Sequence[str] = (),
    units: Sequence[str] = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Network:
    """Return the chain of dense layers whose parameters a state holds.

    state is a mapping such as PyTorch's `state_dict`, or the path of an .npz or .safetensors
    file: `LAYER.weight` (s_out, s_in) and, where there is one, `LAYER.bias` (s_out,). It may be
    nested: the parameters of Flax, linen or nnx, and of Haiku, with `kernel` or `w` (s_in, s_out)
    and `bias` or `b`, or a module of Equinox. The path is the name of a layer, with dots, without
    `params` in front and without Haiku's `~`.
    activations has a name in ACTIVATIONS, or a function with its parameter, for each layer, the
    last one included. Layers are in the order of the numbers in their names, 10 after 2; if names
    differ in more than numbers, layers states the order.

    A state has no prediction with which the network could be compared, so pass one as check:
    rows and the answers to them.

    Raises UnsupportedSourceError, which names the tensor or file, for what is not of this
    form, or names row and output where the answers differ from check's by more than rounding
    explains, MissingLibraryError if a file's format takes a library, NetworkError for shapes that
    do not fit.
    """
    tree: object
    if isinstance(state, str | os.PathLike):
        origin, tree = Path(state).name, read_state(Path(state))
    elif _is_tree(state):
        origin, tree = "state", state
    else:
        raise UnsupportedSourceError(
            "state",
            f"a {type(state).__name__}",
            "expected a mapping of weights by name, a module of Equinox, or a path",
        )
    parameters = _by_layer(origin, _flat(tree))
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
    network = assemble(
        source, steps, [head], name=name, provenance={"source": origin} | dict(provenance or {})
    )
    Reading(source, steps, [head]).check_rows(network, check)
    return network


_Parameters: TypeAlias = dict[str, NDArray[np.float64]]
"""W and, where there is one, b: `Linear`'s arguments."""


# What a parameter is by its name, its axes, and whether it is (s_in, s_out).
_KINDS: Mapping[str, tuple[str, int, bool]] = {
    "weight": ("W", 2, False),
    "kernel": ("W", 2, True),
    "w": ("W", 2, True),
    "bias": ("b", 1, False),
    "b": ("b", 1, False),
}


def _flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield a tree's tensors with their names."""
    if isinstance(tree, Mapping):
        inside = [(str(key), value) for key, value in tree.items()]
    elif is_dataclass(tree):
        # A module of Equinox: functions and options, static or not, are no parameters.
        inside = [(each.name, getattr(tree, each.name)) for each in fields(tree)]
        inside = [(name, value) for name, value in inside if not _is_option(value)]
    elif isinstance(tree, list | tuple) and any(map(_is_tree, tree)):
        inside = [(str(index), value) for index, value in enumerate(tree)]
    else:
        parts = [part for key in path for part in key.split("/") if part != "~"]
        yield ".".join(parts[1:] if parts[0] == "params" and len(parts) > 2 else parts), tree
        return
    for key, value in inside:
        if value is not None:
            yield from _flat(value, (*path, key))


def _is_tree(value: object) -> bool:
    return isinstance(value, Mapping) or is_dataclass(value)


def _is_option(value: object) -> bool:
    is_plain = isinstance(value, bool | int | float | str)
    return is_plain or (callable(value) and not is_dataclass(value))


def _by_layer(origin: str, tensors: Iterator[tuple[str, Any]]) -> dict[str, _Parameters]:
    """Return each layer's parameters; raises UnsupportedSourceError for any other tensor."""
    parameters: dict[str, _Parameters] = {}
    for name, values in tensors:
        part = f"tensor {name!r} of {origin}"
        layer, _, kind = name.rpartition(".")
        field, axes, is_transposed = _KINDS.get(kind, ("", -1, False))
        array = real(part, "values", values)
        if not layer or array.ndim != axes:
            raise UnsupportedSourceError(
                part,
                f"of shape {array.shape}, no parameter of a dense layer",
                "expected LAYER.weight of shape (s_out, s_in), or LAYER.kernel or LAYER.w of shape "
                "(s_in, s_out), and LAYER.bias or LAYER.b of shape (s_out,)",
            )
        if field in parameters.setdefault(layer, {}):
            raise UnsupportedSourceError(
                part, f"a second {field} of layer {layer!r}", "give one weight and one bias"
            )
        parameters[layer][field] = array.T if is_transposed else array
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
    # Haiku calls layers linear, linear_1 and so on.
    if len({re.sub(r"_?\d+", "", layer) for layer in layers}) > 1:
        raise NetworkError(
            origin,
            expected="layers whose names differ only in numbers",
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
            fix="pass a mapping with each weight's np.ascontiguousarray(W.T)",
        )


def _fit(weights: Sequence[NDArray[np.float64]], layers: Sequence[_Parameters]) -> bool:
    follow = all(W.shape[1] == len(before) for before, W in pairwise(weights))
    return follow and all(
        "b" not in layer or layer["b"].shape == W.shape[:1]
        for W, layer in zip(weights, layers, strict=True)
    )


def _check_activations(layers: Sequence[str], activations: Sequence[AnyActivation]) -> None:
    if (
        isinstance(activations, str)
        or len(activations) != len(layers)
        or not all(is_activation(each) for each in activations)
    ):
        raise NetworkError(
            "activations",
            expected=f"one for each of the layers {', '.join(layers)}, out of "
            f"{', '.join(ACTIVATIONS)}",
            got=repr(activations),
            fix="name the last layer's too: 'identity' if it has none",
        )
