"""Puts networks one after the other, as one: an output of each is the input of the next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import activation_of
from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import NetworkError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import Scaling
from forwardpass.proto.verdicts import column_labels


def chain(
    *networks: Network,
    reads: str | Sequence[str | None] | None = None,
    name: str = "chained",
) -> Network:
    """Return one network that computes networks one after the other: the next on each answer.

    It has the inputs of the first, the outputs of the last, and the layers of all that lead to
    them; inputs that nothing reads any more are left out, and a layer whose name is taken gets a
    number behind it. A later network that has several inputs reads the output as the one of its
    name; the others become inputs of the whole, one for all networks that have the same. reads
    names the output that the
    next network reads: one text, or one for each network after the first; None is for a network
    that has one output.

        chain(encoder, classifier, reads="code")

    The scaling of a later input stays, without another rounding of any weight: where float32 has
    the exact values it goes into the layers beside it, otherwise it is identity layers, of which
    the one for the mean is exact, and the one for the scale has 1 / scale rounded once. The
    provenance says which.

    Raises NetworkError, which names the network, if there is none, if sizes, units, or names of
    columns or inputs of one name differ, if no layer may read the output, or if the input that
    should has categories or a fill.
    """
    if not networks:
        raise NetworkError(
            f"network {name!r}",
            expected="at least one network",
            got="none",
            fix="give them in the order in which they compute",
        )
    chosen = [reads] if isinstance(reads, str) else reads
    if chosen is None:
        chosen = [None] * (len(networks) - 1)
    if len(chosen) != len(networks) - 1:
        raise NetworkError(
            f"network {name!r}",
            expected=f"{len(networks) - 1} outputs to read, one for each network after the first",
            got=str(len(chosen)),
            fix="name one for each, or None for a network that has one output",
        )
    first, *others = networks
    provenance = _provenance(networks)
    joined = first
    for label, after, output in zip(_labels(networks)[1:], others, chosen, strict=True):
        joined, scaling = _join(joined, after, output)
        if scaling:
            provenance[f"{label}: scaling"] = scaling
    return replace(joined, name=name, provenance=provenance)


def _join(before: Network, after: Network, reads: str | None) -> tuple[Network, str]:
    """Return both as one with the later's name, and what became of the scaling between them."""
    output = before.output(reads)
    target = _fed(after, output.name)
    source = before.layer(output.layer)
    _check_fits(before, output, source.units, after, target)
    if output.of == "z":
        # Layers read activations: z is the activation of the same layer without its function.
        source = replace(source, activation="identity")
    if activation_of(source.activation).outputs_only:
        raise NetworkError(
            f"output {output.name!r} of network {before.name!r}",
            expected="one that a layer may read",
            got=f"activations of {source.activation}",
            fix="give the network an output of='z', and read that",
        )
    inputs, layers = _leading_to(source, before)
    inputs += _further(inputs, after, target)
    taken = {each.name for given in inputs for each in given.scaled}
    layers = _renamed(layers, {layer.name: _free(layer.name, taken) for layer in layers})
    source = layers[-1]
    names = {layer.name: _free(layer.name, taken) for layer in after.layers}
    read = {name for layer in after.layers for name in layer.reads}
    scalings = [each for each in target.scaled if each.name in read]
    weights = {layer.name: layer.W for layer in after.layers}
    notes = []
    for each in scalings:
        added, note = _minus_mean(each, source, layers, taken, alone=len(scalings) == 1)
        notes += note
        divided = None if each.scale is None else _divided(after, each, each.scale)
        if divided is not None:
            weights |= divided
            notes.append(f"scale exact, in W of layer {', '.join(names[key] for key in divided)}")
        elif each.scale is not None:
            scaled = _free(f"{each.name}_scaled", taken)
            W, b = np.diag(1 / each.scale.astype(np.float64)), np.zeros(source.units)
            layers.append(Layer(scaled, W, b, "identity", added))
            notes.append(f"1 / scale rounded to float32, as layer {scaled}")
            added = scaled
        names[each.name] = added
    divided_layers = [replace(layer, W=weights[layer.name]) for layer in after.layers]
    layers += _renamed(divided_layers, names)
    outputs = [replace(each, layer=names[each.layer]) for each in after.outputs]
    return Network(inputs, layers, outputs, after.name), "; ".join(notes)


def _fed(network: Network, output: str) -> Input:
    """Return the input that reads an output of this name: the only one, or that of the same name.

    Raises NetworkError if there is none, or the output cannot be its rows.
    """
    only = len(network.inputs) == 1
    for each in network.inputs:
        if only or each.name == output:
            if isinstance(each, Input) and each.fill is None:
                return each
            what = "a fill" if isinstance(each, Input) else "categories"
            raise NetworkError(
                f"input {each.name!r} of network {network.name!r}",
                expected=f"numbers without a fill, to read output {output!r}",
                got=what,
                fix="put the network first, or give it such an input",
            )
    raise NetworkError(
        f"network {network.name!r}",
        expected=f"one of its inputs to be named {output!r}, as the output that it reads",
        got=", ".join(repr(each.name) for each in network.inputs),
        fix="rename the input or the output",
    )


def _further(
    inputs: Sequence[Input | Categorical], after: Network, target: Input
) -> list[Input | Categorical]:
    """Return the inputs of a later network, but target, that are not among inputs.

    Raises NetworkError for one that differs from an input of the same name.
    """
    there = {each.name: each for each in inputs}
    for each in after.inputs:
        if each is not target and there.get(each.name, each) != each:
            raise NetworkError(
                f"input {each.name!r} of network {after.name!r}",
                expected="that of the networks before it, which has the same name",
                got="another",
                fix="make both the same, or rename one",
            )
    return [each for each in after.inputs if each is not target and each.name not in there]


def _renamed(layers: Iterable[Layer], names: Mapping[str, str]) -> list[Layer]:
    """Return layers by other names, as far as names has them; they read them so, too."""
    return [
        replace(
            layer,
            name=names.get(layer.name, layer.name),
            reads=tuple(names.get(read, read) for read in layer.reads),
        )
        for layer in layers
    ]


def _check_fits(before: Network, output: Output, width: int, after: Network, source: Input) -> None:
    labels = column_labels(output.labels, width)
    for what, wanted, got, fix in (
        ("size", source.size, width, "chain networks of which one answers what the next takes"),
        ("features", source.features, labels, "give them the same names in the same order"),
        ("units", source.units, output.units, "convert between them by a network of one layer"),
    ):
        if wanted and got and wanted != got:
            raise NetworkError(
                f"network {after.name!r}",
                expected=f"to read columns of {what} {wanted!r}",
                got=f"{got!r} from output {output.name!r} of network {before.name!r}",
                fix=fix,
            )


def _leading_to(goal: Layer, network: Network) -> tuple[list[Input | Categorical], list[Layer]]:
    """Return the inputs and scalings that goal needs, and its layers up to goal, the last."""
    needed, layers = set(goal.reads), [goal]
    for layer in reversed(network.layers):
        if layer.name in needed:
            needed |= set(layer.reads)
            layers.insert(0, layer)
    inputs: list[Input | Categorical] = []
    renamed: dict[str, str] = {}
    for source in network.inputs:
        if not any(each.name in needed for each in source.scaled):
            continue
        if isinstance(source, Input) and source.scalings:
            kept = tuple(each for each in source.scalings if each.name in needed)
            if len(kept) == 1 and source.name not in needed:
                # A single scaling has one notation: it is the input's own.
                renamed[kept[0].name] = source.name
                source = replace(source, mean=kept[0].mean, scale=kept[0].scale, scalings=())
            else:
                source = replace(source, scalings=kept)
        inputs.append(source)
    return inputs, _renamed(layers, renamed)


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with a number behind it if it is taken; takes it."""
    numbered = (f"{name}_{number}" for number in count(2))
    free = name if name not in taken else next(each for each in numbered if each not in taken)
    taken.add(free)
    return free


def _minus_mean(
    scaling: Input | Scaling, source: Layer, layers: list[Layer], taken: set[str], *, alone: bool
) -> tuple[str, list[str]]:
    """Subtract a mean from the layer source; return the layer to read, and what was done.

    alone: whether source is the last of layers and nothing else reads it, so that it can change.
    """
    if scaling.mean is None:
        return source.name, []
    if alone and source.activation == "identity":
        pairs = zip(source.b.tolist(), scaling.mean.tolist(), strict=True)
        exact = [Fraction(b) - Fraction(m) for b, m in pairs]
        with np.errstate(over="ignore"):
            rounded = np.array([float(each) for each in exact]).astype(np.float32)
        if rounded.tolist() == exact:
            layers[-1] = replace(source, b=rounded)
            return source.name, [f"mean exact, in b of layer {source.name}"]
    center = _free(f"{scaling.name}_centered", taken)
    layers.append(Layer(center, np.eye(source.units), -scaling.mean, "identity", source.name))
    return center, [f"mean exact, as layer {center}"]


def _divided(
    after: Network, source: Input | Scaling, scale: NDArray[np.float32]
) -> dict[str, NDArray[Any]] | None:
    """Return W / scale of the layers that read source, or None if float32 cannot hold one."""
    found = {}
    for layer in after.layers:
        if source.name not in layer.reads:
            continue
        blocks = after.blocks(layer.name)
        block = blocks[source.name].astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            divided = (block / scale).astype(np.float32)
        # The product of two float32 numbers is exact in float64.
        if not (divided.astype(np.float64) * scale == block).all():
            return None
        blocks[source.name] = divided
        found[layer.name] = np.concatenate([*blocks.values()], axis=1)
    return found


def _labels(networks: Sequence[Network]) -> list[str]:
    """Return the networks' names, with their places if two are equal."""
    names = [network.name for network in networks]
    if len(set(names)) == len(names):
        return names
    return [f"{name} {place}" for place, name in enumerate(names, start=1)]


def _provenance(networks: Sequence[Network]) -> dict[str, str]:
    texts: Mapping[str, Mapping[str, str]] = {
        label: network.provenance
        for label, network in zip(_labels(networks), networks, strict=True)
    }
    return {f"{label}: {key}": text for label, own in texts.items() for key, text in own.items()}
