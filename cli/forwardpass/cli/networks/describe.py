"""`forwardpass describe`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer
from onnx import TensorProto

from forwardpass.cli.errors import UsageError
from forwardpass.models.file.describe import describe
from forwardpass.models.file.export import write
from forwardpass.models.file.load import parse


class ColumnTexts(NamedTuple):
    """What is said of columns, each as `NAME=A,B,...`, or `A,B,...` where there is one tensor."""

    features: Sequence[str]
    labels: Sequence[str]
    units: Sequence[str]
    thresholds: Sequence[str]


def describe_file(
    source: Path,
    output: Path,
    columns: ColumnTexts,
    provenance: Sequence[str],
    *,
    drop_samples: bool,
    overwrite: bool,
) -> None:
    """Write a copy of a model file that names its columns.

    provenance: texts to add, each as `NAME=TEXT`. drop_samples: Whether to leave its samples out.
    overwrite: Whether to replace a file.

    Raises UsageError for columns that cannot be understood, and what reading, describing and
    writing the file raise.
    """
    model = parse(source)
    constants = {tensor.name for tensor in model.graph.initializer}
    outside = any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer)
    if outside and output.resolve().parent != source.resolve().parent:
        raise UsageError(
            f"--output {output}: {source} has weights in files beside it; write into their folder"
        )
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    outputs = [value.name for value in model.graph.output]
    of_inputs: dict[str, dict[str, Any]] = {}
    of_outputs: dict[str, dict[str, Any]] = {}
    _take(of_inputs, "features", "labels", columns.features, inputs, str)
    _take(of_outputs, "labels", "labels", columns.labels, outputs, str)
    _take(of_outputs, "units", "units", columns.units, outputs, str)
    _take(of_outputs, "thresholds", "thresholds", columns.thresholds, outputs, float)
    texts = {}
    for text in provenance:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--provenance {text}: expected NAME=TEXT, got no name")
        texts[name.strip()] = value.strip()
    changed = describe(
        model,
        inputs=of_inputs,
        outputs=of_outputs,
        provenance=texts,
        drop_samples=drop_samples,
    )
    write(output, changed.SerializeToString(), overwrite=overwrite)
    typer.echo(f"wrote {output}")


def _take(
    into: dict[str, dict[str, Any]],
    option: str,
    field: str,
    given: Sequence[str],
    tensors: Sequence[str],
    read: Callable[[str], Any],
) -> None:
    for text in given:
        name, _, entries = text.rpartition("=")
        if not name:
            if len(tensors) != 1:
                raise UsageError(
                    f"--{option} {text}: expected NAME=..., of {', '.join(tensors)}, got no name"
                )
            name = tensors[0]
        try:
            values = tuple(read(entry.strip()) for entry in entries.split(","))
        except ValueError as error:
            raise UsageError(f"--{option} {text}: expected numbers ({error})") from error
        into.setdefault(name, {})[field] = values
