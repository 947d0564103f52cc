"""The file contract: the metadata of a model file, in ONNX's `metadata_props`.

`forwardpass.models` writes and reads them; the server reads them, replays the samples and
publishes the rest as the `properties` of ModelMetadata. Every value is text; those marked JSON
are JSON with sorted keys, so that equal networks have equal bytes.
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.pickling import PicklableError
from forwardpass.proto.spec import TensorError, TensorSpec, quote, shortened
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
"""JSON object of text: the network's origin, its figures, and anything that its author adds."""
PROVENANCE_FILE = "provenance.json"
"""Name of the file beside a model's with a further object as PROVENANCE: where the model came from,
whose bytes stay as they were there."""
CARD_PARTS = ("intended use", "limits", "data", "figures")
"""Names in PROVENANCE that a model card has a section for, also behind that of a part of the model,
as in `heart: data`."""
SAMPLES = PREFIX + "samples"
"""JSON: Samples."""

BATCH_INVARIANT = PREFIX + "batch_invariant"
"""Not in a file: the result of a server's check on its machine, published with the file's keys.

`true`: rows of different requests run together, and each gets the bits that it gets alone.
`false`: it would not, so that every request runs alone. Or `not batched: ` and the reason why it
was not tried: then every request runs alone, too.
"""

UNPROVEN = PREFIX + "unproven"
"""Not in a file: published by a server that was allowed to serve a model although it answered no
input that was tried; the value is the reason."""

SIGNATURE = PREFIX + "signature"
"""Not in a file: a server's hash of what gives requests and answers their meaning: the inputs and
outputs, and the names, units and thresholds of their columns. Replicas on other machines have the
same."""

CONTENT = PREFIX + "content"
"""Not in a file: a server's SHA-256 of the model's bytes, in hexadecimal; of one whose nodes it had
to sort, or whose data are in other files, as it was put together."""

CONDITIONS = {SIGNATURE: "forwardpass_signature", CONTENT: "forwardpass_content"}
"""Key of ModelMetadata -> parameter of a ModelInferRequest that asks for an answer only if the
model still has this value there; else the call is answered ABORTED."""

FORMAT_VERSION = "1"

MISSING_TEXT = ""
"""A missing value of an input of categories that are texts, unless it is a category."""
MISSING_INTEGER = -(2**63)
"""A missing value of an input of categories that are integers."""

_SAMPLED = {np.dtype(object): "BYTES", np.dtype(np.int64): "INT64"}
"""The datatypes of samples that are not float32, by dtype."""


class MetadataError(PicklableError, ValueError):
    """A value under one of the contract's keys that is not of the contract's form."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"metadata {quote(key)}: {shortened(why)}")
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNames:
    """The meaning of the columns of one tensor; each tuple is empty or has one entry per column."""

    labels: tuple[str, ...] = ()
    """Feature names of an input, labels of an output."""
    units: tuple[str, ...] = ()
    """Unit of each column, as in `mm`; an empty text if it has none."""
    description: str = ""
    thresholds: tuple[float, ...] = ()
    """Thresholds of an output's columns: above it, a column's label applies."""
    low: tuple[float, ...] = ()
    """The least value of each column of an input in the data for which the model was made."""
    high: tuple[float, ...] = ()
    """The greatest value of each column; set if and only if `low` is."""
    fill: tuple[float | None, ...] = ()
    """The value that the model puts in place of a missing one, NaN, of each column of an input;
    None for a column whose missing values stay missing."""
    categories: tuple[str, ...] | tuple[int, ...] = ()
    """All values of an input of one column that is no number: texts, or integers. Not one per
    column."""
    unknown: str | int = "refuse"
    """What any other value counts as: `refuse` for no answer, `zeros` for none of the categories,
    or one of them."""
    missing: str | int | None = None
    """The category that a missing value counts as; None if it is unknown. It is sent as
    MISSING_TEXT or MISSING_INTEGER, unless that is a category itself."""
    baseline: tuple[float, ...] | tuple[str | int] = ()
    """The row of an input from which explanations start: numbers, or one category; empty for the
    mean of its scaling, or what a missing category counts as."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not empty, ready for JSON."""
        fields = {
            "labels": list(self.labels),
            "units": list(self.units),
            "description": self.description,
            "thresholds": list(self.thresholds),
            "low": list(self.low),
            "high": list(self.high),
            "fill": list(self.fill),
            "categories": list(self.categories),
            "baseline": list(self.baseline),
        }
        rules = {"unknown": self.unknown} if self.unknown != "refuse" else {}
        rules |= {"missing": self.missing} if self.missing is not None else {}
        return {key: value for key, value in fields.items() if value} | rules

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown fields are ignored.

        Raises TypeError for a field of another type.
        """
        texts = {name: fields.get(name, []) for name in ("labels", "units")}
        description = fields.get("description", "")
        numbers = {name: fields.get(name, []) for name in _NUMBERS}
        fill, categories = fields.get("fill", []), fields.get("categories", [])
        unknown, missing = fields.get("unknown", "refuse"), fields.get("missing")
        baseline = fields.get("baseline", [])
        if (
            not all(_is_texts(value) for value in texts.values())
            or not isinstance(description, str)
            or not all(_is_numbers(value) for value in numbers.values())
            or len(numbers["low"]) != len(numbers["high"])
            or not (isinstance(fill, list) and _is_numbers([x for x in fill if x is not None]))
            or not (_is_texts(categories) or _is_integers(categories))
            or len({*categories}) != len(categories)
            or not _is_one_of(unknown, ("refuse", "zeros", *categories))
            or not _is_one_of(missing, (None, *categories))
            or not _is_baseline(baseline, categories)
        ):
            raise TypeError("expected lists of texts, a text and lists of finite numbers")
        return cls(
            labels=tuple(texts["labels"]),
            units=tuple(texts["units"]),
            description=description,
            thresholds=tuple(map(float, numbers["thresholds"])),
            low=tuple(map(float, numbers["low"])),
            high=tuple(map(float, numbers["high"])),
            fill=tuple(None if x is None else float(x) for x in fill),
            categories=tuple(categories),
            unknown=unknown,
            missing=missing,
            baseline=tuple(baseline if categories else map(float, baseline)),
        )


_NUMBERS = ("thresholds", "low", "high")


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


def load_provenance(texts: Mapping[str, str]) -> dict[str, Any]:
    """Read PROVENANCE among a file's metadata; empty if it has none.

    Raises MetadataError if it is no JSON object; a value that is no text stays as it is.
    """
    value = load_json(PROVENANCE, texts.get(PROVENANCE, "{}"))
    if not isinstance(value, dict):
        raise MetadataError(PROVENANCE, "expected an object of texts")
    return value


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs with the answers of the float64 reference, for the server to replay."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    """Float64 reference answers, rounded to the output's dtype."""
    tolerance: Mapping[str, float]
    """The largest absolute difference of each output that float32 rounding explains."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only views of dicts do not pickle.
        return Samples, (dict(self.inputs), dict(self.outputs), dict(self.tolerance))

    def dump(self) -> str:
        """Write the value of SAMPLES."""
        return dump_json(
            {
                "inputs": {name: _dump_tensor(array) for name, array in self.inputs.items()},
                "outputs": {name: _dump_tensor(array) for name, array in self.outputs.items()},
                "tolerance": dict(self.tolerance),
            }
        )

    def difference(self, answers: Mapping[str, NDArray[Any]]) -> str:
        """Return where a model's answers to the inputs are wrong first; empty if they are right."""
        for name, expected in self.outputs.items():
            got, tolerance = answers[name], self.tolerance[name]
            if got.shape != expected.shape:
                return (
                    f"output {name!r} of its samples: expected shape {list(expected.shape)}, "
                    f"got {list(got.shape)}"
                )
            if got.dtype.kind != "f":
                return f"output {name!r} of its samples: expected floats, got {got.dtype}"
            # Written so that a NaN counts as wrong.
            wrong = ~(np.abs(got.astype(np.float64) - expected) <= tolerance)
            if wrong.any():
                at = tuple(map(int, np.argwhere(wrong)[0]))
                return (
                    f"output {name!r} at {list(at)} of its samples: expected "
                    f"{expected[at]:.9g} within {tolerance:.3g}, got {got[at]:.9g}"
                )
        return ""

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
    """Return the metadata of a file that a server publishes: the contract's keys but the samples.

    Keys that a server finds out itself are not taken from a file.
    """
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(PREFIX) and key not in _UNPUBLISHED
    }


_UNPUBLISHED = {SAMPLES, BATCH_INVARIANT, UNPROVEN, SIGNATURE, CONTENT}


def signature(
    inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], properties: Mapping[str, str]
) -> str:
    """Return the value of SIGNATURE: 16 hexadecimal digits.

    properties: those of ModelMetadata.
    """
    meaning = {
        "tensors": [
            [[tensor.name, tensor.datatype, tensor.shape] for tensor in tensors]
            for tensors in (inputs, outputs)
        ],
        "columns": [properties.get(key, "{}") for key in (INPUTS, OUTPUTS)],
    }
    return hashlib.sha256(dump_json(meaning).encode()).hexdigest()[:16]


def dump_json(value: object) -> str:
    """Write JSON that is the same text for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def load_json(key: str, text: str) -> Any:
    """Read the JSON under a key; raises MetadataError if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(key, f"not JSON ({error})") from error


def _is_texts(value: object) -> bool:
    if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return False
    try:
        # JSON also has halves of characters, which no message can carry.
        "".join(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_one_of(value: object, values: Sequence[object]) -> bool:
    # Not by ==, for which True is 1.
    return any(type(value) is type(each) and value == each for each in values)


def _is_baseline(value: object, categories: Sequence[object]) -> bool:
    if not categories:
        return _is_numbers(value)
    return (
        isinstance(value, list)
        and len(value) < 2
        and all(_is_one_of(each, categories) for each in value)
    )


def _is_integers(value: object) -> bool:
    return isinstance(value, list) and all(
        type(number) is int and -(2**63) < number < 2**63 for number in value
    )


def _is_numbers(value: object) -> bool:
    # JSON has numbers beyond float64, and Python's reader also takes NaN and Infinity.
    try:
        return isinstance(value, list) and all(
            type(number) in (int, float) and math.isfinite(number) for number in value
        )
    except OverflowError:
        return False


def _dump_tensor(array: NDArray[Any]) -> dict[str, Any]:
    # Of float32 and of what categories are; other numbers are float32 in a file.
    datatype = _SAMPLED.get(array.dtype, "FP32")
    raw = encode_raw(array, datatype)
    tensor = {"shape": list(array.shape), "raw": base64.b64encode(raw).decode("ascii")}
    return tensor if datatype == "FP32" else {"datatype": datatype, **tensor}


def _load_tensors(tensors: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    return MappingProxyType(
        {
            name: decode_raw(
                f"sample {name!r}",
                base64.b64decode(tensor["raw"], validate=True),
                tensor.get("datatype", "FP32"),
                tuple(int(size) for size in tensor["shape"]),
            )
            for name, tensor in tensors.items()
        }
    )
