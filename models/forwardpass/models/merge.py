"""Several networks over the same input as one: one file, one call, all answers."""

from collections.abc import Mapping
from dataclasses import replace

from forwardpass.models.errors import NetworkError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import Scaling


def merge(networks: Mapping[str, Network], *, name: str = "merged") -> Network:
    """Return one network with the layers and outputs of all, `PREFIX_NAME` each.

    networks maps prefixes to networks whose inputs have the same name, size, feature names and
    units. Each keeps its own scaling, and answers bit for bit what it answers alone.

        merge({"heart": heart, "lungs": lungs})  # outputs heart_risk, lungs_risk

    Raises NetworkError, which names the network, if there is none or an input differs, and for
    prefixes that make two names the same.
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
        _check_same_input(first, networks[first].input, other, networks[other].input)
    source = networks[first].input
    same_scaling = all(network.input == source for network in networks.values())
    scalings: list[Scaling] = []
    layers: list[Layer] = []
    outputs: list[Output] = []
    for prefix, network in networks.items():
        names = {layer.name: f"{prefix}_{layer.name}" for layer in network.layers}
        if same_scaling:
            names |= {each.name: each.name for each in source.scaled}
        else:
            own = _scalings(prefix, network.input)
            names |= {network.input.name: network.input.name}
            names |= {old: scaling.name for old, scaling in own.items()}
            scalings += own.values()
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
    if not same_scaling:
        source = replace(source, mean=None, scale=None, scalings=tuple(scalings))
    return Network(source, tuple(layers), tuple(outputs), name, _provenance(networks))


def _check_same_input(first: str, expected: Input, other: str, got: Input) -> None:
    for what in ("name", "size", "features", "units"):
        if getattr(got, what) != getattr(expected, what):
            raise NetworkError(
                f"network {other!r}",
                expected=f"an input of {what} {getattr(expected, what)!r}, as {first!r} has",
                got=repr(getattr(got, what)),
                fix="merge networks that answer for the same rows",
            )


def _scalings(prefix: str, source: Input) -> dict[str, Scaling]:
    """Return a network's scalings, by what its layers call them now, under new names."""
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
