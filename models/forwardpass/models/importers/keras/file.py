"""Reads a `.keras` file as data: nothing that it holds is run.

A zip archive of `metadata.json`, `config.json` and `model.weights.h5`, in which the weights of
a layer are at `layers/CLASS/vars/0`, `1`, ...: CLASS is that of the layer in snake case, with
`_1`, `_2`, ... from the second of a class on. The vocabulary of a lookup is in its configuration,
or a line a token in `assets/layers/CLASS/vocabulary.txt`. Source: Keras 3,
`keras/src/saving/saving_lib.py`.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import MissingLibraryError, UnsupportedSourceError
from forwardpass.models.importers.keras.layers import KerasLayer
from forwardpass.models.importers.steps import real

_WEIGHTS = "model.weights.h5"
_ASSETS = "assets/"
_VOCABULARY = "/vocabulary.txt"
_INFLATION = 100
"""Maximum ratio of a member's size to its compressed size: weights hardly compress; a bomb does."""


def read_file(path: Path) -> "tuple[KerasLayer, FileWeights, str]":
    """Return the model of a file, its weights, and the version of the Keras that wrote it.

    Raises UnsupportedSourceError for a file of another Keras, MissingLibraryError without h5py,
    and, for a file of another form, BadZipFile, LookupError, TypeError, ValueError or
    RecursionError.
    """
    with zipfile.ZipFile(path) as archive:
        version = str(json.loads(_member(archive, "metadata.json"))["keras_version"])
        model = json.loads(_member(archive, "config.json"))
        weights = _member(archive, _WEIGHTS)
        vocabularies = {
            name.removeprefix(_ASSETS).removesuffix(_VOCABULARY): _lines(_member(archive, name))
            for name in archive.namelist()
            if name.startswith(_ASSETS) and name.endswith(_VOCABULARY)
        }
    if version.split(".")[0] != "3":
        raise UnsupportedSourceError(
            f"file {str(path)!r}", f"written by Keras {version}", "save it with Keras 3"
        )
    layer = KerasLayer.parse(model)
    return layer, FileWeights(_arrays(path, weights), vocabularies, "", _slots(layer)), version


@dataclass(frozen=True, eq=False)
class FileWeights:
    """The weights of one model's layers in a file."""

    arrays: Mapping[str, NDArray[Any]]
    """The arrays by their path in `model.weights.h5`."""
    vocabularies: Mapping[str, Sequence[str]]
    """The vocabularies that lie beside `config.json`, by the folder of their layer."""
    folder: str
    """The folder of the model's `layers`: empty, or with a slash at its end."""
    slots: Mapping[str, str]
    """The names of layers -> their names in the file."""

    def weights(self, layer: KerasLayer, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return a layer's weights, numbered in the file in the order of names."""
        place = f"{self._place(layer)}/vars"
        values = []
        for number, name in enumerate(names):
            if f"{place}/{number}" not in self.arrays:
                raise UnsupportedSourceError(
                    layer.part, f"no {name} in {_WEIGHTS}", "build the model, and save it then"
                )
            values.append(real(layer.part, name, self.arrays[f"{place}/{number}"]))
        return values

    def vocabulary(self, layer: KerasLayer) -> Sequence[str | int]:
        """Return the tokens of a lookup, from its configuration or from the file beside it."""
        written = layer.config["vocabulary"]
        if isinstance(written, list):
            return written
        place = self._place(layer)
        if written is not None or place not in self.vocabularies:
            raise UnsupportedSourceError(
                layer.part,
                "no vocabulary in the file" if written is None else f"a vocabulary {written!r}",
                "adapt it or give it a list, and save the model with Keras 3",
            )
        lines = self.vocabularies[place]
        return lines if layer.kind == "StringLookup" else [*map(int, lines)]

    def inside(self, model: KerasLayer) -> "FileWeights":
        """Return the weights of a model that is a layer."""
        return FileWeights(self.arrays, self.vocabularies, f"{self._place(model)}/", _slots(model))

    def _place(self, layer: KerasLayer) -> str:
        return f"{self.folder}layers/{self.slots[layer.name]}"


def _slots(model: KerasLayer) -> dict[str, str]:
    """Return the names of a model's layers -> their names in the file."""
    seen: Counter[str] = Counter()
    slots = {}
    for layer in model.layers:
        if layer.name in slots:
            raise ValueError(f"two layers {layer.name!r}")
        kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", layer.kind)
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()
        slots[layer.name] = f"{kind}_{seen[kind]}" if seen[kind] else kind
        seen[kind] += 1
    return slots


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > _INFLATION * max(info.compress_size, 1):
        raise ValueError(f"{name} claims {info.file_size} bytes of {info.compress_size}")
    return archive.read(info)


def _lines(content: bytes) -> list[str]:
    """Return the tokens of a file as Keras reads them: it loses empty ones at the end."""
    lines = content.decode().splitlines()
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _arrays(path: Path, weights: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an HDF5 file, by their paths."""
    try:
        import h5py
    except ImportError as error:
        raise MissingLibraryError(str(path), "h5py") from error
    arrays = {}

    # Links to other files are not followed: h5py visits only what is in the file itself.
    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        # Keras writes plain datasets; others may claim any size, or read other files.
        if item.external or item.is_virtual or item.id.get_storage_size() != item.nbytes:
            raise UnsupportedSourceError(
                f"dataset {name!r} of file {str(path)!r}",
                "not stored in one piece in the file itself",
                "save it with Keras 3",
            )
        arrays[name] = item[()]

    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise UnsupportedSourceError(
            f"file {str(path)!r}", f"{_WEIGHTS} is not HDF5 ({error})", "save it with Keras 3"
        ) from error
    return arrays
