"""`forwardpass inspect`."""

from collections import Counter
from math import prod
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardpass.cli.errors import CommandError
from forwardpass.models import Network, UnsupportedModelError, load
from forwardpass.proto import metadata
from forwardpass.server.repository import find_models

_SHOWN_LABELS = 6


def inspect_path(path: Path) -> None:
    """Show every model file at a path.

    Raises RepositoryError if there is none, CommandError for a file that is not ONNX.
    """
    console = Console()
    for file in find_models(path):
        try:
            model = onnx.load(file.path)
        except Exception as error:  # protobuf's DecodeError and onnx's own share no base
            raise CommandError(f"{file.path}: not an ONNX file ({error})") from error
        console.rule(f"{file.name} version {file.version}  ({file.path})", style="none")
        _show(console, model, file.path.stat().st_size)


def _show(console: Console, model: onnx.ModelProto, size: int) -> None:
    properties = {entry.key: entry.value for entry in model.metadata_props}
    opset = next(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0
    )
    console.print(
        f"{size:,} bytes, opset {opset}, IR {model.ir_version}, "
        f"by {model.producer_name or 'an unnamed producer'} {model.producer_version}",
        highlight=False,
    )
    try:
        console.print(_layers(load(model)))
    except UnsupportedModelError as error:
        console.print(Text(f"not a network of Forwardpass' own: {error}"))
        console.print(_operators(model))
    console.print(_tensors(model, properties))
    provenance = metadata.load_json(metadata.PROVENANCE, properties.get(metadata.PROVENANCE, "{}"))
    if provenance:
        table = Table("provenance", "", show_header=True)
        for key, value in sorted(provenance.items()):
            table.add_row(Text(key), Text(str(value)))
        console.print(table)


def _layers(network: Network) -> Table:
    table = Table("layer", "name", "units", "activation", "reads", "W", "parameters")
    table.add_row("L_1", network.input.name, str(network.input.size), "", "", "", "")
    for number, layer in enumerate(network.layers, start=2):
        table.add_row(
            f"L_{number}",
            Text(layer.name),
            str(layer.units),
            layer.activation,
            Text(", ".join(layer.reads)),
            "{} x {}".format(*layer.W.shape),
            f"{layer.W.size + layer.b.size:,}",
        )
    table.add_section()
    table.add_row("", "", "", "", "", "", f"{network.parameter_count:,}")
    return table


def _operators(model: onnx.ModelProto) -> Table:
    table = Table("operator", "nodes", "parameters in all")
    counts = Counter(node.op_type for node in model.graph.node)
    parameters = sum(prod(tensor.dims) for tensor in model.graph.initializer)
    for index, (operator, count) in enumerate(counts.most_common()):
        table.add_row(operator, str(count), f"{parameters:,}" if index == 0 else "")
    return table


def _tensors(model: onnx.ModelProto, properties: dict[str, str]) -> Table:
    table = Table("", "name", "type", "shape", "labels", "units")
    held = {tensor.name for tensor in model.graph.initializer}
    for role, key, values in (
        ("input", metadata.INPUTS, model.graph.input),
        ("output", metadata.OUTPUTS, model.graph.output),
    ):
        columns = metadata.load_columns(key, properties.get(key, "{}"))
        for value in values:
            if value.name in held:
                continue
            tensor = value.type.tensor_type
            shape = [size.dim_param or size.dim_value for size in tensor.shape.dim]
            names = columns.get(value.name, metadata.ColumnNames())
            table.add_row(
                role,
                Text(value.name),
                onnx.TensorProto.DataType.Name(tensor.elem_type),
                Text(f"[{', '.join(map(str, shape))}]"),
                Text(_shortened(names.labels)),
                Text(_shortened(names.units)),
            )
    return table


def _shortened(texts: tuple[str, ...]) -> str:
    shown = ", ".join(texts[:_SHOWN_LABELS])
    return shown + (f", ... ({len(texts)})" if len(texts) > _SHOWN_LABELS else "")
