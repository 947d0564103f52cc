"""The names of the columns in a model's file, if they fit its tensors."""

from collections.abc import Mapping
from contextlib import suppress

from forwardpass.client.model import ModelSpec
from forwardpass.proto.metadata import (
    INPUTS,
    OUTPUTS,
    ColumnNames,
    MetadataError,
    load_columns,
)
from forwardpass.proto.spec import TensorSpec


def feature_names(spec: ModelSpec) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the features by input, for inputs [-1, n] that have a name for each."""
    columns = _load(spec, INPUTS)
    return {
        tensor.name: columns[tensor.name].labels
        for tensor in spec.inputs
        if tensor.name in columns
        and len(tensor.shape) == 2
        and tensor.shape[1] == len(set(columns[tensor.name].labels)) > 0
    }


def input_columns(spec: ModelSpec) -> Mapping[str, ColumnNames]:
    """Return categories, or values in place of missing ones, by input that has them."""
    columns = _load(spec, INPUTS)
    return {
        tensor.name: columns[tensor.name]
        for tensor in spec.inputs
        if tensor.name in columns and _has_rules(tensor, columns[tensor.name])
    }


def _has_rules(tensor: TensorSpec, columns: ColumnNames) -> bool:
    if columns.categories:
        datatype = "BYTES" if isinstance(columns.categories[0], str) else "INT64"
        return tensor.shape == (-1, 1) and tensor.datatype == datatype
    return bool(columns.fill) and tensor.shape[1:] == (len(columns.fill),)


def output_columns(spec: ModelSpec) -> Mapping[str, ColumnNames]:
    """Return labels, units and thresholds by output."""
    return _load(spec, OUTPUTS)


def _load(spec: ModelSpec, key: str) -> dict[str, ColumnNames]:
    # Another server may use the key for something else: that must not fail a prediction.
    with suppress(MetadataError):
        return load_columns(key, spec.properties.get(key, "{}"))
    return {}
