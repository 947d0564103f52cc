"""What training leaves behind: parameters, scaling, held-out rows and figures, in one .npz."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network

Parameters: TypeAlias = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""By layer name: W (s_out, s_in) and b (s_out,), or the gradient in them."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that training never saw, with what was measured for them."""

    x: NDArray[np.float32]
    """(N, n) raw features, as a client sends them."""
    truth: Mapping[str, NDArray[np.float32]]
    """By output name, (N, width); an output that has no truth (a code) is not here."""


@dataclass(frozen=True, eq=False)
class Stored:
    """One example network's file."""

    mean: NDArray[Any]
    """(n,) of the training rows' raw features."""
    scale: NDArray[Any]
    """(n,) their standard deviation."""
    parameters: Parameters
    held_out: HeldOut
    provenance: Mapping[str, str]
    """How the training went: rows, settings, held-out figures."""

    def restore(self, architecture: Callable[[NDArray[Any], NDArray[Any]], Network]) -> Network:
        """Return the trained network; architecture(mean, scale) gives the untrained one."""
        return with_parameters(
            architecture(self.mean, self.scale), self.parameters, self.provenance
        )


def with_parameters(
    network: Network, parameters: Parameters, provenance: Mapping[str, str] | None = None
) -> Network:
    """Return the network with other parameters, rounded to float32, and more provenance."""
    layers = tuple(
        replace(layer, W=parameters[layer.name][0], b=parameters[layer.name][1])
        for layer in network.layers
    )
    return replace(network, layers=layers, provenance={**network.provenance, **(provenance or {})})


def load(name: str) -> Stored:
    """Read the committed file of an example network."""
    with (
        (files(__package__) / "data" / f"{name}.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        entries = dict(arrays.items())
    biases = _group(entries, "b/")
    return Stored(
        mean=entries["mean"],
        scale=entries["scale"],
        parameters={layer: (W, biases[layer]) for layer, W in _group(entries, "W/").items()},
        held_out=HeldOut(entries["x"], MappingProxyType(_group(entries, "truth/"))),
        provenance={key: str(text) for key, text in _group(entries, "provenance/").items()},
    )


def save(stored: Stored, path: Path) -> None:
    """Write a file for `load`: float32, compressed, the same bytes for equal contents."""
    arrays: dict[str, NDArray[Any]] = {"mean": stored.mean, "scale": stored.scale}
    for layer, (W, b) in stored.parameters.items():
        arrays |= {f"W/{layer}": W, f"b/{layer}": b}
    arrays["x"] = stored.held_out.x
    arrays |= {f"truth/{output}": y for output, y in stored.held_out.truth.items()}
    texts = {f"provenance/{key}": np.array(text) for key, text in stored.provenance.items()}
    entries = {key: array.astype(np.float32) for key, array in arrays.items()} | texts
    # NumPy dates every entry 1980-01-01: no time stamp in the file.
    np.savez_compressed(path, **entries)


def _group(entries: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        key.removeprefix(prefix): array for key, array in entries.items() if key.startswith(prefix)
    }
