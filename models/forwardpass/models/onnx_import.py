"""From an ONNX file back to a network: its graph, and the names in its metadata."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forwardpass.models import graph_names
from forwardpass.models.errors import UnsupportedModelError
from forwardpass.models.graph_reader import Draft, GraphReader, LayerDraft, ScalingDraft
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import Scaling
from forwardpass.proto import metadata

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def load(source: "str | os.PathLike[str] | bytes | ModelProto") -> Network:
    """Read a model, by its path, its bytes or as a message, as a network with the same bits.

    A file that `export` wrote gives back an equal network.

    Raises UnsupportedModelError for what is no model or cannot be a Network, MetadataError
    for metadata against the file contract, NetworkError for parameters that no network has.
    """
    model = parse(source)
    texts = {prop.key: prop.value for prop in model.metadata_props}
    version = texts.get(metadata.FORMAT, metadata.FORMAT_VERSION)
    if version != metadata.FORMAT_VERSION:
        raise UnsupportedModelError(
            f"metadata {metadata.FORMAT!r}",
            f"version {version!r} is not {metadata.FORMAT_VERSION!r}, the one read here",
        )
    reader = GraphReader(model.graph)
    for node in model.graph.node:
        reader.read(node)
    return _network(reader, model.graph, texts)


def _network(reader: GraphReader, graph: "GraphProto", texts: Mapping[str, str]) -> Network:
    source, inputs = _input(reader, texts)
    names = inputs | _layer_names(reader.layers, texts)
    columns = _columns(metadata.OUTPUTS, texts)
    outputs = []
    for value in graph.output:
        tensor = reader.tensors.get(value.name)
        if tensor is None or isinstance(tensor.layer, ScalingDraft):
            raise UnsupportedModelError(f"output {value.name!r}", "no layer's z or a")
        shown = columns.get(value.name, metadata.ColumnNames())
        outputs.append(
            Output(
                value.name,
                names[tensor.layer],
                "z" if tensor.of == "z" else "a",
                shown.labels,
                shown.units,
                shown.description,
                shown.thresholds,
            )
        )
    return Network(
        source,
        tuple(
            Layer(
                names[layer],
                np.concatenate(layer.blocks, axis=1),
                layer.b,
                layer.activation,
                tuple(names[read] for read in layer.reads),
            )
            for layer in reader.layers
        ),
        tuple(outputs),
        graph.name,
        provenance_of(texts),
    )


def _input(reader: GraphReader, texts: Mapping[str, str]) -> tuple[Input, dict[Draft, str]]:
    """Return the input, and the names by which layers read it and its scalings."""
    features = _columns(metadata.INPUTS, texts).get(reader.input_name, metadata.ColumnNames())
    source = Input(
        reader.size,
        reader.input_name,
        features.labels,
        features.units,
        low=np.array(features.low) if features.low else None,
        high=np.array(features.high) if features.high else None,
    )
    read = reader.read_inputs()
    if len(read) == 1:
        (own,) = read
        scaled = replace(source, mean=own.parts.get("mean"), scale=own.parts.get("scale"))
        return scaled, {own: source.name}
    names: dict[Draft, str] = {
        draft: graph_names.scaling(draft.tensor) if draft.parts else source.name for draft in read
    }
    scalings = tuple(
        Scaling(names[draft], draft.parts.get("mean"), draft.parts.get("scale"))
        for draft in read
        if draft.parts
    )
    return replace(source, scalings=scalings), names


def _columns(key: str, texts: Mapping[str, str]) -> dict[str, metadata.ColumnNames]:
    return metadata.load_columns(key, texts[key]) if key in texts else {}


def provenance_of(texts: Mapping[str, str]) -> dict[str, str]:
    """Return what a file's metadata say of where it comes from."""
    value = metadata.load_json(metadata.PROVENANCE, texts.get(metadata.PROVENANCE, "{}"))
    if not isinstance(value, dict):
        raise metadata.MetadataError(metadata.PROVENANCE, "expected an object of texts")
    return value


def _layer_names(layers: Sequence[LayerDraft], texts: Mapping[str, str]) -> dict[Draft, str]:
    if metadata.LAYERS in texts:
        names = metadata.load_json(metadata.LAYERS, texts[metadata.LAYERS])
        if not isinstance(names, list) or len(names) != len(layers):
            raise metadata.MetadataError(metadata.LAYERS, f"expected a list of {len(layers)} names")
    else:
        names = [f"L{number}" for number in range(2, len(layers) + 2)]
    return dict(zip(layers, names, strict=True))


def parse(source: "str | os.PathLike[str] | bytes | ModelProto") -> "ModelProto":
    """Return a model's message; raises UnsupportedModelError for what is none."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if isinstance(source, ModelProto):
        return source
    if isinstance(source, bytes):
        name, content = "model", source
    else:
        name, content = os.fspath(source), Path(source).read_bytes()
    try:
        return ModelProto.FromString(content)
    except DecodeError as error:
        raise UnsupportedModelError(name, "not an ONNX model") from error
