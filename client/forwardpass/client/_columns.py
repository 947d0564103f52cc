"""What a model's file says of the columns of its tensors, as far as it fits them."""

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


def output_columns(spec: ModelSpec) -> Mapping[str, ColumnNames]:
    """Return labels, units and thresholds by output."""
    return _load(spec, OUTPUTS)


def _load(spec: ModelSpec, key: str) -> dict[str, ColumnNames]:
    # Another server may have a use of its own for the key: that must not cost a prediction.
    with suppress(MetadataError):
        return load_columns(key, spec.properties.get(key, "{}"))
    return {}
