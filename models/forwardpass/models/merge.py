"""Merges networks with the same inputs into one: one file, one call, all answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from forwardpass.models.arrays import same_bits
from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import NetworkError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import Scaling


def merge(networks: Mapping[str, Network], *, name: str = "merged") -> Network:
    """Return one network with the layers and outputs of all, named `PREFIX_NAME`.

    networks maps prefixes to networks whose inputs have the same names, sizes, feature names,
    units and fills, or categories. Each keeps its own scaling, and its answers stay equal bit for
    bit.

        merge({"heart": heart, "lungs": lungs})  # outputs heart_risk, lungs_risk

    Raises NetworkError, which names the network, if there is none, if an input differs, or if
    prefixes make two names equal.
    """
    if not networks:
        raise NetworkError(
            f"network {name!r}",
            expected="at least one network to merge",
            got="none",
            fix="give them by their prefixes, as in merge({'heart': heart})",
        )
    first, *others = networks
    for other in others:
        _check_same_inputs(first, networks[first].inputs, other, networks[other].inputs)
    merged = [
        _Merged.of({prefix: network.inputs[place] for prefix, network in networks.items()})
        for place in range(len(networks[first].inputs))
    ]
    layers: list[Layer] = []
    outputs: list[Output] = []
    for prefix, network in networks.items():
        names = {layer.name: f"{prefix}_{layer.name}" for layer in network.layers}
        for each in merged:
            names |= each.names[prefix]
        layers += [
            replace(
                layer,
                name=names[layer.name],
                reads=tuple(names[read] for read in layer.reads),
            )
            for layer in network.layers
        ]
        outputs += [
            replace(output, name=f"{prefix}_{output.name}", layer=names[output.layer])
            for output in network.outputs
        ]
    inputs = tuple(each.source for each in merged)
    return Network(inputs, tuple(layers), tuple(outputs), name, _provenance(networks))


@dataclass(frozen=True)
class _Merged:
    """An input of the merged network."""

    source: Input | Categorical
    names: Mapping[str, Mapping[str, str]]
    """By prefix the name of what layers read here, by its name in their network."""

    @classmethod
    def of(cls, inputs: Mapping[str, Input | Categorical]) -> "_Merged":
        """Merge the inputs, by prefix, that `_check_same_inputs` accepts."""
        (first, *others) = inputs.values()
        if all(other == first for other in others) or not isinstance(first, Input):
            kept = {each.name: each.name for each in first.scaled}
            return cls(first, dict.fromkeys(inputs, kept))
        scalings: list[Scaling] = []
        names = {}
        for prefix, source in inputs.items():
            own = _scalings(prefix, source) if isinstance(source, Input) else {}
            names[prefix] = {first.name: first.name}
            names[prefix] |= {old: scaling.name for old, scaling in own.items()}
            scalings += own.values()
        return cls(replace(first, mean=None, scale=None, scalings=tuple(scalings)), names)


def _check_same_inputs(
    first: str,
    expected: Sequence[Input | Categorical],
    other: str,
    got: Sequence[Input | Categorical],
) -> None:
    def differs(what: str, wanted: object, given: object) -> NetworkError:
        return NetworkError(
            f"network {other!r}",
            expected=f"{what} {wanted!r}, as {first!r} has",
            got=repr(given),
            fix="merge networks that answer for the same rows",
        )

    if len(got) != len(expected):
        names = [[each.name for each in inputs] for inputs in (expected, got)]
        raise differs("the inputs", *names)
    for mine, theirs in zip(expected, got, strict=True):
        if type(mine) is not type(theirs):
            raise differs("an input of", *(type(each).__name__ for each in (mine, theirs)))
        for what in _SAME[type(mine)]:
            wanted, given = getattr(mine, what), getattr(theirs, what)
            arrays = wanted is not None and given is not None and what in ("fill", "values")
            same = same_bits(wanted, given) if arrays else wanted is given or wanted == given
            if not same:
                raise differs(f"an input of {what}", wanted, given)


_SAME = {
    Input: ("name", "size", "features", "units", "fill"),
    Categorical: ("name", "categories", "unknown", "missing", "values"),
}
"""What has to be the same, by kind of input."""


def _scalings(prefix: str, source: Input) -> dict[str, Scaling]:
    """Return a network's scalings under new names, by their old ones."""
    scalings = [Scaling(f"{prefix}_{each.name}", each.mean, each.scale) for each in source.scalings]
    scaled = {each.name: scaling for each, scaling in zip(source.scalings, scalings, strict=True)}
    if source.mean is not None or source.scale is not None:
        scaled[source.name] = Scaling(f"{prefix}_{source.name}", source.mean, source.scale)
    return scaled


def _provenance(networks: Mapping[str, Network]) -> dict[str, str]:
    return {
        f"{prefix}: {key}": text
        for prefix, network in networks.items()
        for key, text in network.provenance.items()
    }
