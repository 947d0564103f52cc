"""The file contract: what a model file says of itself in ONNX `metadata_props`.

Written by `forwardpass.models`, read back by it, and read by the server, which replays the
samples and publishes the rest as the `properties` of ModelMetadata. Every value is text;
the ones marked JSON are JSON with sorted keys, so that equal networks give equal bytes.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import decode_raw, encode_raw

PREFIX = "forwardpass."

FORMAT = PREFIX + "format"
"""Version of this contract: `1`."""
LAYERS = PREFIX + "layers"
"""JSON list: the layers' names, L_2 first."""
INPUTS = PREFIX + "inputs"
"""JSON object: input name -> ColumnNames."""
OUTPUTS = PREFIX + "outputs"
"""JSON object: output name -> ColumnNames."""
PROVENANCE = PREFIX + "provenance"
"""JSON object of text: where the network comes from, how well it does, whatever its maker adds."""
SAMPLES = PREFIX + "samples"
"""JSON: Samples."""

BATCH_INVARIANT = PREFIX + "batch_invariant"
"""Not in a file: what a server found out on its machine and publishes beside the file's own keys.

`true`: rows of different requests run together, and each gets the bits that it gets alone.
`false`: it would not, so that every request runs alone. Or `not batched: ` and why it was not
tried: then every request runs alone, too.
"""

FORMAT_VERSION = "1"


class MetadataError(ValueError):
    """A value under one of the contract's keys that is not of the contract's form."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"metadata {key!r}: {why}")
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNames:
    """What the columns of one tensor mean; each tuple is empty or one entry a column."""

    labels: tuple[str, ...] = ()
    """Feature names of an input, labels of an output."""
    units: tuple[str, ...] = ()
    """Unit of each column, as in `mm`; empty text where it has none."""
    description: str = ""
    thresholds: tuple[float, ...] = ()
    """Of an output: what a column's value has to exceed for its label to hold."""
    low: tuple[float, ...] = ()
    """Of an input: the least value that each column had where the model was made."""
    high: tuple[float, ...] = ()
    """And the greatest; there is one of them where there is the other."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not empty, ready for JSON."""
        fields = {
            "labels": list(self.labels),
            "units": list(self.units),
            "description": self.description,
            "thresholds": list(self.thresholds),
            "low": list(self.low),
            "high": list(self.high),
        }
        return {key: value for key, value in fields.items() if value}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown fields are left aside.

        Raises TypeError for a field of another type.
        """
        texts = {name: fields.get(name, []) for name in ("labels", "units")}
        description = fields.get("description", "")
        numbers = {name: fields.get(name, []) for name in ("thresholds", "low", "high")}
        if (
            not all(_is_texts(value) for value in texts.values())
            or not isinstance(description, str)
            or not all(_is_numbers(value) for value in numbers.values())
            or len(numbers["low"]) != len(numbers["high"])
        ):
            raise TypeError("expected lists of texts, a text and lists of finite numbers")
        return cls(
            labels=tuple(texts["labels"]),
            units=tuple(texts["units"]),
            description=description,
            thresholds=tuple(map(float, numbers["thresholds"])),
            low=tuple(map(float, numbers["low"])),
            high=tuple(map(float, numbers["high"])),
        )


def dump_columns(tensors: Mapping[str, ColumnNames]) -> str:
    """Write the value of INPUTS or OUTPUTS."""
    return dump_json({name: columns.to_dict() for name, columns in tensors.items()})


def load_columns(key: str, text: str) -> dict[str, ColumnNames]:
    """Read the value of INPUTS or OUTPUTS.

    Raises MetadataError if it is not of the contract's form.
    """
    value = load_json(key, text)
    try:
        return {name: ColumnNames.from_dict(fields) for name, fields in value.items()}
    except (AttributeError, TypeError) as error:
        raise MetadataError(key, "expected an object of objects") from error


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs with the answers that the float64 reference gives, for the server to replay."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    """Float64 reference answers, rounded to the output's dtype."""
    tolerance: Mapping[str, float]
    """Per output: the largest absolute difference that float32 rounding explains."""

    def dump(self) -> str:
        """Write the value of SAMPLES."""
        return dump_json(
            {
                "inputs": {name: _dump_tensor(array) for name, array in self.inputs.items()},
                "outputs": {name: _dump_tensor(array) for name, array in self.outputs.items()},
                "tolerance": dict(self.tolerance),
            }
        )

    @classmethod
    def load(cls, text: str) -> Self:
        """Inverse of `dump`.

        Raises MetadataError if the text is not of the contract's form.
        """
        value = load_json(SAMPLES, text)
        try:
            return cls(
                inputs=_load_tensors(value["inputs"]),
                outputs=_load_tensors(value["outputs"]),
                tolerance=MappingProxyType(
                    {name: float(value["tolerance"][name]) for name in value["outputs"]}
                ),
            )
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OverflowError,
            TensorError,
            binascii.Error,
        ) as error:
            raise MetadataError(SAMPLES, f"not of the contract's form ({error!r})") from error


def published(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what a server publishes of a file's metadata: the contract's keys but the samples."""
    return {
        key: value for key, value in metadata.items() if key.startswith(PREFIX) and key != SAMPLES
    }


def dump_json(value: object) -> str:
    """Write JSON that is the same text for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def load_json(key: str, text: str) -> Any:
    """Read the JSON under a key; raises MetadataError if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(key, f"not JSON ({error})") from error


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_numbers(value: object) -> bool:
    # JSON has numbers beyond float64, and Python's reader also takes NaN and Infinity.
    try:
        return isinstance(value, list) and all(
            type(number) in (int, float) and math.isfinite(number) for number in value
        )
    except OverflowError:
        return False


def _dump_tensor(array: NDArray[Any]) -> dict[str, Any]:
    # float32 alone: the contract's samples come from networks, whose tensors are float32.
    raw = encode_raw(array.astype(np.float32), "FP32")
    return {"shape": list(array.shape), "raw": base64.b64encode(raw).decode("ascii")}


def _load_tensors(tensors: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    return MappingProxyType(
        {
            name: decode_raw(
                f"sample {name!r}",
                base64.b64decode(tensor["raw"], validate=True),
                "FP32",
                tuple(int(size) for size in tensor["shape"]),
            )
            for name, tensor in tensors.items()
        }
    )
