"""`forwardpass inspect`."""

from collections import Counter
from collections.abc import Mapping
from itertools import zip_longest
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from forwardpass.cli.errors import CommandError
from forwardpass.models import ModelsError, Network, load
from forwardpass.models.file.describe import signature
from forwardpass.proto import metadata
from forwardpass.proto.categories import listed
from forwardpass.proto.metadata import ColumnNames, MetadataError
from forwardpass.proto.verdicts import DEFAULT_THRESHOLD, is_two_class
from forwardpass.server.repository.disk import find_models

_SHOWN_COLUMNS = 4


def inspect_path(path: Path) -> None:
    """Show every model file at a path.

    Raises RepositoryError if there is none, and CommandError, after showing the others, for
    files that are not ONNX or whose metadata violate the file contract.
    """
    console = Console()
    faults = []
    for file in find_models(path):
        if path.is_dir():
            console.rule(Text(f"{file.name} version {file.version}"), style="none")
        try:
            _show(console, file.path)
        except (CommandError, MetadataError) as error:
            console.print(Text(str(error)))
            faults.append(f"{file.path}: {error}")
    if faults:
        raise CommandError("; ".join(faults))


def _show(console: Console, path: Path) -> None:
    content = path.read_bytes()
    model = _parse(content)
    opset = next(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0
    )
    producer = f"{model.producer_name or 'an unnamed producer'} {model.producer_version}".strip()
    console.print(Text(f"{path}: {len(content):,} bytes, opset {opset}, IR {model.ir_version}"))
    console.print(Text(f"made by {producer}"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    tensors, provenance = _tensors(model, properties), _provenance(properties, path)
    try:
        console.print(_layers(load(model)))
    except ModelsError as error:
        console.print(Text(f"not a network of Forwardpass' own: {error}"))
        console.print(_operators(model))
    console.print(tensors)
    if provenance.row_count:
        console.print(provenance)


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise CommandError("not an ONNX file") from error
    # An empty file parses as well, as a message without fields.
    if not model.HasField("graph"):
        raise CommandError("not an ONNX file")
    return model


def _layers(network: Network) -> Table:
    table = Table("layer", "name", "units", "activation", "reads", "W", "parameters")
    for source in network.inputs:
        table.add_row("L_1", Text(source.name), str(source.width), "", "", "", "")
    for number, layer in enumerate(network.layers, start=2):
        table.add_row(
            f"L_{number}",
            Text(layer.name),
            str(layer.units),
            str(layer.activation),
            Text(", ".join(layer.reads)),
            "{} x {}".format(*layer.W.shape),
            f"{layer.W.size + layer.b.size:,}",
        )
    table.add_section()
    table.add_row("", "", "", "", "", "", f"{network.parameter_count:,}")
    return table


def _operators(model: onnx.ModelProto) -> Table:
    counts = Counter(node.op_type for node in model.graph.node)
    parameters = sum(prod(tensor.dims) for tensor in model.graph.initializer)
    table = Table("operator", "nodes", caption=f"{parameters:,} parameters")
    for operator, count in counts.most_common():
        table.add_row(Text(operator), str(count))
    return table


def _tensors(model: onnx.ModelProto, properties: Mapping[str, str]) -> Table:
    table = Table("", "name", "type", "shape", "columns")
    for column in (0, 2, 3):
        table.columns[column].no_wrap = True
    held = {tensor.name for tensor in model.graph.initializer}
    for role, key, values in (
        ("input", metadata.INPUTS, model.graph.input),
        ("output", metadata.OUTPUTS, model.graph.output),
    ):
        columns = metadata.load_columns(key, properties.get(key, "{}"))
        for value in values:
            if value.name not in held:
                names = columns.get(value.name, ColumnNames())
                kind, shape = signature(value.type)
                table.add_row(
                    role,
                    Text(value.name),
                    kind,
                    Text(shape),
                    Text(_described(names, _width(value.type))),
                )
    return table


def _provenance(properties: Mapping[str, str], path: Path) -> Table:
    # A checksum that is cut off is none.
    table = Table("provenance", Column(overflow="fold"))
    texts = metadata.load_provenance(properties)
    beside = path.with_name(metadata.PROVENANCE_FILE)
    if beside.is_file():
        added = {metadata.PROVENANCE: beside.read_text(encoding="utf-8")}
        texts |= metadata.load_provenance(added)
    for key, text in sorted(texts.items()):
        table.add_row(Text(key), Text(str(text)))
    return table


def _width(kind: onnx.TypeProto) -> int:
    """Return the length of the last axis; 0 if it is not fixed."""
    sizes = kind.tensor_type.shape.dim
    return sizes[-1].dim_value if sizes else 0


def _described(names: ColumnNames, width: int) -> str:
    """Return the text of a tensor's columns: `mean radius, length (mm), ill > 0.5`."""
    if names.categories:
        rules = [] if names.unknown == "refuse" else [f"any other: {names.unknown}"]
        rules += [] if names.missing is None else [f"missing: {names.missing}"]
        return "\n".join(filter(None, (names.description, "; ".join([listed(names), *rules]))))
    limits = [f"> {threshold:g}" for threshold in names.thresholds]
    limits = limits or ["" if x is None else f"or {x:g}" for x in names.fill]
    labels = list(names.labels)
    if is_two_class(labels, width):
        limits = [f"{''.join(limits) or f'> {DEFAULT_THRESHOLD:g}'}, else {labels.pop(0)}"]
    columns = [
        " ".join(filter(None, (f"{label} ({unit})" if label and unit else label or unit, limit)))
        for label, unit, limit in zip_longest(labels, names.units, limits, fillvalue="")
    ]
    shown = ", ".join(columns[:_SHOWN_COLUMNS])
    if len(columns) > _SHOWN_COLUMNS:
        shown += f", and {len(columns) - _SHOWN_COLUMNS} more"
    return "\n".join(filter(None, (names.description, shown)))
