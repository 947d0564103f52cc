"""From an ONNX file back to a network: its graph, and the names in its metadata."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forwardpass.models import graph_names
from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import UnsupportedModelError
from forwardpass.models.file.compositions import recognized
from forwardpass.models.file.reader import (
    CategoryDraft,
    Draft,
    GraphReader,
    LayerDraft,
    ScalingDraft,
)
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import Scaling
from forwardpass.proto import metadata

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def load(source: "str | os.PathLike[str] | bytes | ModelProto") -> Network:
    """Read a model, by its path, its bytes or as a message, as a network with the same bits.

    A file that `export` wrote is read back as an equal network.

    Raises UnsupportedModelError for a source that is not a model or cannot be a Network,
    MetadataError for metadata that violate the file contract, NetworkError for parameters that no
    network has.
    """
    model = parse(source)
    texts = {prop.key: prop.value for prop in model.metadata_props}
    version = texts.get(metadata.FORMAT, metadata.FORMAT_VERSION)
    if version != metadata.FORMAT_VERSION:
        raise UnsupportedModelError(
            f"metadata {metadata.FORMAT!r}",
            f"version {version!r} is not {metadata.FORMAT_VERSION!r}, the only one supported",
        )
    reader = GraphReader(model.graph)
    outputs = [value.name for value in model.graph.output]
    for node in recognized(model.graph.node, reader.scalar, outputs):
        reader.read(node)
    return _network(reader, model.graph, texts)


def _network(reader: GraphReader, graph: "GraphProto", texts: Mapping[str, str]) -> Network:
    for value in graph.output:
        tensor = reader.tensors.get(value.name)
        if tensor is None or not isinstance(tensor.layer, LayerDraft):
            raise UnsupportedModelError(f"output {value.name!r}", "no layer's z or a")
    inputs, of_inputs = _inputs(reader, texts)
    names = of_inputs | _layer_names(reader.layers, texts)
    columns = _columns(metadata.OUTPUTS, texts)
    outputs = []
    for value in graph.output:
        tensor = reader.tensors[value.name]
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
        inputs,
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
        metadata.load_provenance(texts),
    )


def _inputs(
    reader: GraphReader, texts: Mapping[str, str]
) -> tuple[tuple[Input | Categorical, ...], dict[Draft, str]]:
    """Return the inputs, and the names by which layers read them and their scalings."""
    columns = _columns(metadata.INPUTS, texts)
    inputs: list[Input | Categorical] = []
    names: dict[Draft, str] = {}
    for name, read in reader.read_inputs().items():
        if isinstance(read[0], CategoryDraft):
            draft = read[0]
            names[draft] = name
            about = columns.get(name, metadata.ColumnNames())
            baseline: Any = next(iter(about.baseline), None)
            inputs.append(
                Categorical(
                    name, draft.categories, draft.unknown, draft.missing, draft.values, baseline
                )
            )
            continue
        forms = [each for each in read if isinstance(each, ScalingDraft)]
        source, scaled = _input(name, forms, columns.get(name, metadata.ColumnNames()))
        inputs.append(source)
        names |= scaled
    return tuple(inputs), names


def _input(
    name: str, read: Sequence[ScalingDraft], features: metadata.ColumnNames
) -> tuple[Input, dict[Draft, str]]:
    source = Input(
        read[0].size,
        name,
        features.labels,
        features.units,
        low=np.array(features.low) if features.low else None,
        high=np.array(features.high) if features.high else None,
        fill=read[0].parts.get("fill"),
        baseline=np.array(features.baseline) if features.baseline else None,
    )
    if len(read) == 1:
        (own,) = read
        scaled = replace(source, mean=own.parts.get("mean"), scale=own.parts.get("scale"))
        return scaled, {own: source.name}
    further = [draft for draft in read if draft.parts.keys() - {"fill"}]
    names: dict[Draft, str] = dict.fromkeys(read, source.name)
    names |= {draft: graph_names.scaling(draft.tensor) for draft in further}
    scalings = tuple(
        Scaling(names[draft], draft.parts.get("mean"), draft.parts.get("scale"))
        for draft in further
    )
    return replace(source, scalings=scalings), names


def _columns(key: str, texts: Mapping[str, str]) -> dict[str, metadata.ColumnNames]:
    return metadata.load_columns(key, texts[key]) if key in texts else {}


def _layer_names(layers: Sequence[LayerDraft], texts: Mapping[str, str]) -> dict[Draft, str]:
    if metadata.LAYERS in texts:
        names = metadata.load_json(metadata.LAYERS, texts[metadata.LAYERS])
        if not isinstance(names, list) or len(names) != len(layers):
            raise metadata.MetadataError(metadata.LAYERS, f"expected a list of {len(layers)} names")
    else:
        names = [f"L{number}" for number in range(2, len(layers) + 2)]
    return dict(zip(layers, names, strict=True))


def parse(source: "str | os.PathLike[str] | bytes | ModelProto") -> "ModelProto":
    """Return a model's message; raises UnsupportedModelError for a source that is not a model."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if isinstance(source, ModelProto):
        return source
    if isinstance(source, bytes):
        name, content = "model", source
    else:
        name, content = os.fspath(source), Path(source).read_bytes()
    fix = "pass a whole .onnx file"
    try:
        model = ModelProto.FromString(content)
    except DecodeError as error:
        raise UnsupportedModelError(name, "not an ONNX model", fix) from error
    if not model.HasField("graph"):
        got = "an ONNX model without a graph" if content else "an empty file"
        raise UnsupportedModelError(name, got, fix)
    return model
