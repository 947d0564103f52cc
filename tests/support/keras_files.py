"""`.keras` files as Keras 3 writes them, and malformed ones."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

JSON = dict[str, Any]


def layer(kind: str, name: str, *calls: JSON, module: str = "keras.layers", **config: Any) -> JSON:
    """An entry of `layers`, with those fields that are read."""
    return {
        "module": module,
        "class_name": kind,
        "config": {"name": name, "dtype": "float32"} | config,
        "registered_name": None,
        "inbound_nodes": list(calls),
    }


def input_layer(*shape: int | None, name: str = "input_layer") -> JSON:
    return layer("InputLayer", name, batch_shape=[None, *shape])


def dense(name: str, *calls: JSON, activation: Any = "linear", **config: Any) -> JSON:
    return layer("Dense", name, *calls, activation=activation, **({"use_bias": True} | config))


def call(*sources: str | tuple[str, int, int], listed: bool = False, **kwargs: Any) -> JSON:
    """One call of a layer with the outputs of others; listed is how Concatenate is called."""
    tensors = [
        {
            "class_name": "__keras_tensor__",
            "config": {"keras_history": [source, 0, 0] if isinstance(source, str) else source},
        }
        for source in sources
    ]
    return {"args": [tensors] if listed else tensors, "kwargs": kwargs}


def sequential(*layers: JSON, name: str = "sequential", calls: tuple[JSON, ...] = ()) -> JSON:
    return layer("Sequential", name, *calls, module="keras", layers=list(layers))


def functional(*layers: JSON, inputs: Any, outputs: Any, calls: tuple[JSON, ...] = ()) -> JSON:
    return layer(
        "Functional",
        "functional",
        *calls,
        module="keras.src.models.functional",
        layers=list(layers),
        input_layers=inputs,
        output_layers=outputs,
    ) | {"registered_name": "Functional"}


def write_weights(weights: Mapping[str, Any]) -> Callable[[h5py.File], None]:
    """Return a function that writes arrays at `layers/KEY`."""

    def write(file: h5py.File) -> None:
        for place, values in weights.items():
            file[f"layers/{place}"] = np.asarray(values, np.float32)

    return write


def hdf5(write: Callable[[h5py.File], None]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


def keras_file(
    path: Path,
    model: JSON,
    weights: Mapping[str, Any] | Callable[[h5py.File], None],
    version: str = "3.15.1",
    vocabularies: Mapping[str, str] | None = None,
    **members: str | bytes | None,
) -> Path:
    """Write a file and return its path; members replace its own, None leaves one out.

    vocabularies: texts of what Keras writes at `assets/layers/KEY/vocabulary.txt`.
    """
    write = weights if callable(weights) else write_weights(weights)
    own: dict[str, str | bytes | None] = {
        "metadata.json": json.dumps({"keras_version": version}),
        "config.json": json.dumps(model),
        "model.weights.h5": hdf5(write),
    }
    contents = own | {name.replace("__", "."): content for name, content in members.items()}
    for place, text in (vocabularies or {}).items():
        contents[f"assets/layers/{place}/vocabulary.txt"] = text
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)
    return path
