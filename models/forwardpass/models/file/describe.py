"""Metadata written into a file of any producer; its graph does not change."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from forwardpass.models.errors import NetworkError
from forwardpass.proto import metadata

if TYPE_CHECKING:
    from onnx import ModelProto, TypeProto, ValueInfoProto


def describe(
    model: "ModelProto",
    *,
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    outputs: Mapping[str, Mapping[str, Any]] | None = None,
    provenance: Mapping[str, str] | None = None,
    drop_samples: bool = False,
) -> "ModelProto":
    """Return a copy of a model that names the columns of its inputs and outputs.

    inputs and outputs: by tensor, the fields of `metadata.ColumnNames` to set, with an entry for
    each column; other fields are kept. provenance: texts to add to the file's. drop_samples leaves
    out the sample rows, whose answers the file no longer reproduces if another tool converted or
    quantized it.

    Raises NetworkError for tensors that the model does not have and for entries of another
    number than its columns.
    """
    described = type(model)()
    described.CopyFrom(model)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    constants = {tensor.name for tensor in model.graph.initializer}
    for key, tensors, given in (
        (metadata.INPUTS, [v for v in model.graph.input if v.name not in constants], inputs),
        (metadata.OUTPUTS, model.graph.output, outputs),
    ):
        columns = metadata.load_columns(key, texts.get(key, "{}"))
        for name, fields in (given or {}).items():
            _check(key, name, fields, tensors)
            columns[name] = replace(columns.get(name, metadata.ColumnNames()), **fields)
        if columns:
            texts[key] = metadata.dump_columns(columns)
    if provenance:
        own = metadata.load_provenance(texts)
        texts[metadata.PROVENANCE] = metadata.dump_json({**own, **provenance})
    if drop_samples:
        texts.pop(metadata.SAMPLES, None)
    del described.metadata_props[:]
    for key, text in texts.items():
        described.metadata_props.add(key=key, value=text)
    return described


def signature(kind: "TypeProto") -> tuple[str, str]:
    """Return the type and the shape of an input or output as text: `FLOAT`, `[batch, 2]`."""
    from onnx import TensorProto

    if not kind.HasField("tensor_type"):
        return (kind.WhichOneof("value") or "?").removesuffix("_type"), ""
    tensor = kind.tensor_type
    known = tensor.elem_type in TensorProto.DataType.values()
    name = TensorProto.DataType.Name(tensor.elem_type) if known else f"type {tensor.elem_type}"
    if not tensor.HasField("shape"):
        return name, "any"
    sizes = (
        str(size.dim_value) if size.HasField("dim_value") else size.dim_param or "?"
        for size in tensor.shape.dim
    )
    return name, f"[{', '.join(sizes)}]"


_OF_A_TENSOR = ("description", "categories", "unknown", "missing")
"""Fields without an entry for each column."""


def _check(
    key: str, name: str, fields: Mapping[str, Any], tensors: "Iterable[ValueInfoProto]"
) -> None:
    role = key.removeprefix(metadata.PREFIX)
    there = {value.name: value.type.tensor_type.shape.dim for value in tensors}
    if name not in there:
        raise NetworkError(
            role,
            expected=f"some of {', '.join(map(repr, there))}",
            got=repr(name),
            fix="name them as the file does",
        )
    width = there[name][-1].dim_value if there[name] else 1
    for field, entries in fields.items():
        if field not in _OF_A_TENSOR and width > 0 and len(entries) != width:
            raise NetworkError(
                f"{field} of {name!r}",
                expected=f"{width}, one for each column",
                got=str(len(entries)),
                fix="give one for each column, in their order",
            )
