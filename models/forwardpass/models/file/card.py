"""A model card in Markdown: what the author of a file gave, and what the file shows."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING, Any

from forwardpass.models.file.describe import signature
from forwardpass.models.file.graph import serialize, to_onnx
from forwardpass.models.file.int8 import Quantized
from forwardpass.models.file.load import parse
from forwardpass.models.network import Network
from forwardpass.proto import metadata
from forwardpass.proto.metadata import ColumnNames, Samples
from forwardpass.proto.verdicts import column_labels, decides_alone, is_two_class

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_ABSENT = "not given"
_SPECIAL = re.compile(r"([\\`*|<\[])|(?<![^\W_])(_)|(_)(?![^\W_])")
_BLOCK = re.compile(r"^(?:([#>+=~-])|(\d+)([.)]))")


def card(source: "Network | Quantized | str | os.PathLike[str] | bytes | ModelProto") -> str:
    """Return the model card of a file, of any producer, or of the file that a network would have.

    In Markdown: the parts of the provenance that `metadata.CARD_PARTS` names, inputs and outputs
    with the meaning of their columns, the rest of the provenance, and figures of the file itself.
    What is absent is `not given`; nothing is guessed.

    Raises UnsupportedModelError for a source that is not a model, MetadataError for metadata that
    violate the file contract.
    """
    if isinstance(source, Quantized):
        source = source.content
    elif isinstance(source, Network):
        source = serialize(to_onnx(source))
    if isinstance(source, str | os.PathLike):
        size = os.stat(source).st_size
    else:
        size = len(source) if isinstance(source, bytes) else source.ByteSize()
    model = parse(source)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    parts, rest = _parts({key: str(text) for key, text in metadata.load_provenance(texts).items()})
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    columns = [
        metadata.load_columns(key, texts.get(key, "{}"))
        for key in (metadata.INPUTS, metadata.OUTPUTS)
    ]
    lines = [f"# {_plain(model.graph.name) or 'Model'}"]
    for part in metadata.CARD_PARTS:
        lines += [f"## {part.capitalize()}", *(parts[part] or [_ABSENT])]
    lines += ["## Inputs", *_tensors(inputs, columns[0], _INPUT)]
    lines += ["## Outputs", *_tensors(model.graph.output, columns[1], _OUTPUT)]
    lines += ["## Provenance", _listed(rest) if rest else _ABSENT]
    lines += ["## File", _listed(_file(model, size, texts))]
    return "\n\n".join(lines) + "\n"


def _parts(provenance: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return paragraphs for each part of the card, and what belongs to none."""
    parts: dict[str, list[str]] = {part: [] for part in metadata.CARD_PARTS}
    rest = {}
    for key, text in provenance.items():
        *before, last = key.split(": ")
        part = last.strip().lower().replace("_", " ")
        if part in parts:
            parts[part].append(_plain(": ".join([*before, text])))
        elif "held-out" in key:
            parts["figures"].append(_plain(f"{key}: {text}"))
        else:
            rest[key] = text
    return parts, rest


def _listed(texts: Mapping[str, str]) -> str:
    return "\n".join(f"- {_plain(key)}: {_plain(text)}" for key, text in texts.items())


_INPUT = {"labels": "feature", "units": "unit", "low": "least", "high": "greatest", "fill": "fill"}
_OUTPUT = {"labels": "label", "units": "unit", "thresholds": "applies above"}
"""Field of ColumnNames -> the head of its column in a table."""
_NAMES = {
    "labels": "names of columns",
    "units": "units",
    "low": "range of the training data",
    "thresholds": "thresholds",
}


def _tensors(
    values: "Iterable[ValueInfoProto]", columns: Mapping[str, ColumnNames], heads: Mapping[str, str]
) -> list[str]:
    lines = []
    for value in values:
        names = columns.get(value.name, ColumnNames())
        sizes = value.type.tensor_type.shape.dim
        width = sizes[-1].dim_value if sizes else 0
        lines.append(f"### {_plain(value.name)}")
        kind, shape = signature(value.type)
        lines.append(_plain(f"{kind} ({shape.strip('[]')})" if shape else kind))
        if heads is _OUTPUT:
            lines.append(_plain(names.description) or f"description: {_ABSENT}")
        if names.categories:
            lines.append(_categories(names))
            continue
        fields = {field: list(getattr(names, field)) for field in heads if getattr(names, field)}
        if is_two_class(names.labels, width):
            fields["labels"] = [*column_labels(names.labels, width)]
            lines.append(f"otherwise: {_plain(names.labels[0])}")
        if fields:
            lines.append(_table({heads[field]: entries for field, entries in fields.items()}))
        needed = [field for field in heads if field in _NAMES]
        if heads is _OUTPUT and names.labels and not (decides_alone(names) and width == 1):
            needed.remove("thresholds")  # the largest is the verdict, or there is none
        absent = [_NAMES[field] for field in needed if field not in fields]
        if absent:
            lines.append(f"{', '.join(absent)}: {_ABSENT}")
    return lines


def _categories(names: ColumnNames) -> str:
    unknown = {"refuse": "no answer", "zeros": "none of them"}.get(
        str(names.unknown), f"as {names.unknown}"
    )
    missing = "as any other" if names.missing is None else f"as {names.missing}"
    return _listed(
        {
            "categories": ", ".join(map(str, names.categories)),
            "any other": unknown,
            "a missing value": missing,
        }
    )


def _table(columns: Mapping[str, Sequence[Any]]) -> str:
    rows = [["column", *columns], ["---"] * (1 + len(columns))]
    for index, entries in enumerate(zip_longest(*columns.values())):
        rows.append([str(index), *(_cell(entry) for entry in entries)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(entry: Any) -> str:
    return f"{entry:g}" if isinstance(entry, float) else _plain(str(entry or ""))


def _file(model: "ModelProto", size: int, texts: Mapping[str, str]) -> dict[str, str]:
    """Return what the file itself shows."""
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    nodes = Counter(node.op_type for node in model.graph.node)
    parameters = sum(prod(tensor.dims) for tensor in model.graph.initializer)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return {
        "size": f"{size:,} bytes, {parameters:,} numbers in constants",
        "format": f"ONNX, opset {opset}, IR {model.ir_version}",
        "producer": producer or _ABSENT,
        "operators": ", ".join(f"{count} {kind}" for kind, count in nodes.most_common()),
        "proof": _proof(texts),
    }


def _proof(texts: Mapping[str, str]) -> str:
    if metadata.SAMPLES not in texts:
        return f"rows with their answers: {_ABSENT}"
    samples = Samples.load(texts[metadata.SAMPLES])
    rows = max((size for array in samples.inputs.values() for size in array.shape[:1]), default=0)
    tolerances = ", ".join(f"{name} {limit:.3g}" for name, limit in samples.tolerance.items())
    return f"{rows} rows with their answers, which a server repeats; tolerance: {tolerances}"


def _plain(text: str) -> str:
    """Return a text of a stranger on one line, as Markdown that shows it as it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return _BLOCK.sub(r"\2\\\1\3", _SPECIAL.sub(r"\\\1\2\3", line))
