"""Results of training in one .npz: parameters, scaling, held-out rows and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Input, Network

Parameters: TypeAlias = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""W (s_out, s_in) and b (s_out,), or their gradients, by layer name."""

Features: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Raw features (N, n); of several inputs the rows (N, size) of each, by its name."""


def take(x: Features, rows: Any) -> Features:
    """Return some rows, chosen by a slice, numbers or a mask."""
    if isinstance(x, Mapping):
        return {name: array[rows] for name, array in x.items()}
    selected: NDArray[Any] = x[rows]
    return selected


def numbers(x: Features) -> NDArray[Any]:
    """Return the rows of the first input, which is of numbers."""
    return next(iter(x.values())) if isinstance(x, Mapping) else x


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that training never saw, with their measured outputs."""

    x: Any
    """Raw features, as a client sends them: (N, n) float32; of several inputs a dict of such arrays
    and of texts (N, 1), by input name."""
    truth: Mapping[str, NDArray[np.float32]]
    """Measured outputs (N, width), by output name; without outputs that have none (a code)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(numbers(self.x))

    def __getitem__(self, rows: slice | int) -> "HeldOut":
        """Return some of the rows, or one without the axis of rows."""
        return HeldOut(take(self.x, rows), {name: y[rows] for name, y in self.truth.items()})


@dataclass(frozen=True, eq=False)
class Stored:
    """One example network's file."""

    mean: NDArray[Any]
    """Mean (n,) of the training rows' raw features."""
    scale: NDArray[Any]
    """Standard deviation (n,) of the training rows' raw features."""
    parameters: Parameters
    held_out: HeldOut
    provenance: Mapping[str, str]
    """Record of the training: rows, settings, held-out figures."""
    span: tuple[NDArray[Any], NDArray[Any]] | None = None
    """Minimum and maximum (n,) of the training rows' raw features, if the network states them."""

    def restore(self, architecture: Callable[[NDArray[Any], NDArray[Any]], Network]) -> Network:
        """Return the trained network; architecture(mean, scale) gives the untrained one."""
        network = architecture(self.mean, self.scale)
        if self.span is not None:
            network = _with_span(network, *self.span)
        return with_parameters(network, self.parameters, self.provenance)


def _with_span(network: Network, low: NDArray[Any], high: NDArray[Any]) -> Network:
    """Return the network with the range of its numbers."""
    inputs = (
        replace(each, low=low, high=high) if isinstance(each, Input) else each
        for each in network.inputs
    )
    return replace(network, inputs=tuple(inputs))


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
    x = {name: _plain(array) for name, array in _group(entries, "x/").items()}
    return Stored(
        mean=entries["mean"],
        scale=entries["scale"],
        parameters={layer: (W, biases[layer]) for layer, W in _group(entries, "W/").items()},
        held_out=HeldOut(
            x or _plain(entries["x"]),
            MappingProxyType({name: _plain(y) for name, y in _group(entries, "truth/").items()}),
        ),
        provenance={key: str(text) for key, text in _group(entries, "provenance/").items()},
        span=(entries["low"], entries["high"]) if "low" in entries else None,
    )


def save(stored: Stored, path: Path) -> None:
    """Write a file for `load`: float32, compressed, the same bytes for equal contents."""
    arrays: dict[str, NDArray[Any]] = {"mean": stored.mean, "scale": stored.scale}
    if stored.span is not None:
        arrays |= dict(zip(("low", "high"), stored.span, strict=True))
    for layer, (W, b) in stored.parameters.items():
        arrays |= {f"W/{layer}": W, f"b/{layer}": b}
    entries: dict[str, Any] = {key: array.astype(np.float32) for key, array in arrays.items()}
    x = stored.held_out.x
    rows = {f"x/{name}": part for name, part in x.items()} if isinstance(x, dict) else {"x": x}
    rows |= {f"truth/{output}": y for output, y in stored.held_out.truth.items()}
    entries |= {key: _smallest(array) for key, array in rows.items()}
    entries |= {f"provenance/{key}": np.array(text) for key, text in stored.provenance.items()}
    # NumPy dates every entry 1980-01-01, so the file has no time stamp.
    np.savez_compressed(path, **entries)


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """Return texts as they are, small integers as uint8 (an image's pixels), or else float32."""
    if array.dtype.kind == "U":
        return array
    if ((array >= 0) & (array <= 255) & (array % 1 == 0)).all():
        return array.astype(np.uint8)
    return array.astype(np.float32)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return what `_smallest` made smaller: texts, or float32."""
    return array if array.dtype.kind == "U" else array.astype(np.float32)


def _group(entries: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        key.removeprefix(prefix): array for key, array in entries.items() if key.startswith(prefix)
    }
