"""Predictions of named features: objects -> a ModelInfer call -> labels, values and units.

Our addition to the protocol: `POST /v2/models/NAME:predict`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.explain import feature_names
from forwardpass.proto.metadata import INPUTS, ColumnNames, load_columns
from forwardpass.proto.spec import TensorSpec, quote
from forwardpass.proto.tensors import decode_raw
from forwardpass.proto.verdicts import (
    column_labels,
    labels_of_rows,
    labels_that_hold,
    verdict_kind,
)
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import InvalidRequestError, JsonTooLargeError
from forwardpass.server.rpc.rest.decimals import Number, TextNeededError
from forwardpass.server.rpc.rest.infer_replies import Body, dumps, word
from forwardpass.server.rpc.rest.infer_requests import InferRequests, load_json

MAX_BYTES = 2**19
"""Maximum size of a body, in bytes."""
_MAX_REPLY_BYTES = 2**22
"""Maximum size of the reply that is shown by label, in bytes."""
_ROWS = 2
"""Axes of a tensor of rows."""


class Predicted(NamedTuple):
    """How the answer to a call is to be written."""

    model: Model
    rows: int
    answer_share: int = 64
    """Memory of the answer, in bytes for each of the reply: its numbers are objects, by label."""

    def write(self, message: bytes) -> Body:
        """Write the answer, of a serialized ModelInferResponse.

        Raises InvalidRequestError for an output without an element for each row, and for too much.
        """
        if len(message) > _MAX_REPLY_BYTES:
            raise InvalidRequestError(
                "predict",
                f"expected outputs of at most {_MAX_REPLY_BYTES} bytes, got {len(message)}; send "
                "fewer rows, or send them to infer",
            )
        reply = pb.ModelInferResponse.FromString(message)
        columns: dict[str, list[dict[str, Any]]] = {}
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
            array = decode_raw(output.name, raw, output.datatype, tuple(output.shape))
            if array.shape[:1] != (self.rows,):
                raise InvalidRequestError(
                    "predict",
                    f"expected outputs with {self.rows} rows, got {quote(output.name)} of shape "
                    f"{list(array.shape)}; send it to infer",
                )
            if output.name in self.model.outputs:
                names = self.model.columns.get(output.name, ColumnNames())
                columns[output.name] = _shown(output.name, array, names)
            else:
                # Of an explanation: a contribution of each feature, or the error.
                named = explained_features(self.model) if array.ndim == _ROWS else ()
                columns[output.name] = [
                    {"values": _by_name(named, row) if named else row} for row in _json(array)
                ]
        rows = [
            dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)
        ]
        shown = {
            "model_name": reply.model_name,
            "model_version": reply.model_version,
            "predictions": rows,
        }
        return Body([dumps(shown).encode()])


def read_predict(
    model: Model,
    body: bytes | memoryview,
    requests: InferRequests,
    parameters: Mapping[str, str | int],
) -> tuple[bytes | memoryview, Predicted]:
    """Return a serialized ModelInferRequest for one object of named features, or a list of them.

    parameters: Those of the request.

    Raises InvalidRequestError, JsonTooLargeError.
    """
    if len(body) > MAX_BYTES:
        raise JsonTooLargeError(len(body), MAX_BYTES)
    try:
        return _read(model, load_json(body, once), requests, parameters, body)
    except TextNeededError:
        return _read(model, load_json(body, once, Number), requests, parameters, None)


def _read(
    model: Model,
    sent: Any,
    requests: InferRequests,
    parameters: Mapping[str, str | int],
    text: bytes | memoryview | None,
) -> tuple[bytes | memoryview, Predicted]:
    """Return what `read_predict` does; text: See `InferRequests.write`."""
    rows = sent if type(sent) is list else [sent]
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise InvalidRequestError(
                f"row {index}", "expected an object of named features, or a list of objects"
            )
    if not rows:
        raise InvalidRequestError("body", "expected at least one object, got an empty list")
    known = features(model)
    inputs = [
        {
            "name": name,
            "datatype": spec.datatype,
            "shape": [len(rows), *spec.shape[1:]],
            "data": [
                value
                for index, row in enumerate(rows)
                for value in _row(index, row, name, spec, known[name])
            ],
        }
        for name, spec in model.inputs.items()
    ]
    for index, row in enumerate(rows):
        _check_known(index, row, known)
    request: dict[str, Any] = {"inputs": inputs, "parameters": dict(parameters)}
    message, _ = requests.write(model.name, str(model.version), request, text=text)
    return message, Predicted(model, len(rows))


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its parts, of which JSON itself would take the last of a name."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidRequestError("body", f"expected {quote(name)} once, got it twice")
        found[name] = value
    return found


def features(model: Model) -> dict[str, ColumnNames]:
    """Return what is known of each input's columns; no labels where they do not name them.

    Raises InvalidRequestError for a model that has inputs without rows.
    """
    columns = load_columns(INPUTS, model.properties.get(INPUTS, "{}"))
    found: dict[str, ColumnNames] = {}
    for name, spec in model.inputs.items():
        if spec.shape[:1] != (-1,) or any(size < 0 for size in spec.shape[1:]):
            raise InvalidRequestError(
                "predict",
                f"expected a model of rows of a known size, got input {quote(name)} of another "
                "shape; send it to infer",
            )
        names = columns.get(name, ColumnNames())
        fits = len(spec.shape) == _ROWS and len(set(names.labels)) == spec.shape[1]
        found[name] = names if fits else replace(names, labels=())
    return found


def explained_features(model: Model) -> tuple[str, ...]:
    """Return the names of the columns of attributions; empty if they have none."""
    labels = {name: names.labels for name, names in features(model).items() if names.labels}
    return feature_names(model.inputs.values(), labels)


def _row(
    index: int, row: Mapping[str, Any], name: str, spec: TensorSpec, names: ColumnNames
) -> Sequence[Any]:
    """Return an input's elements in a row."""
    own = row.get(name)
    if type(own) is list and name not in names.labels:
        flat = own
        while flat and type(flat[0]) is list:
            flat = [each for part in flat for each in (part if type(part) is list else [part])]
        return _of_size(index, name, spec, flat)
    if not names.labels:
        # A single column needs no list.
        if own is not None and type(own) is not dict:
            return _of_size(index, name, spec, [own])
        raise InvalidRequestError(
            f"row {index}",
            f"expected {quote(name)} as a list of numbers, since its columns have no names",
        )
    source = own if type(own) is dict and name not in names.labels else row
    missing = [label for label in names.labels if label not in source]
    if missing:
        known = set(names.labels)
        unknown = next((label for label in source if label not in known), None)
        instead = "" if unknown is None else f", and {quote(unknown)}, which is none of them"
        raise InvalidRequestError(
            f"row {index}",
            f"expected feature {quote(missing[0])}, got none{instead}; send all features",
        )
    return [source[label] for label in names.labels]


def _of_size(index: int, name: str, spec: TensorSpec, flat: list[Any]) -> list[Any]:
    size = 1
    for each in spec.shape[1:]:
        size *= each
    if len(flat) != size:
        raise InvalidRequestError(
            f"row {index}", f"expected {size} elements of {quote(name)}, got {len(flat)}"
        )
    return flat


def _check_known(index: int, row: Mapping[str, Any], known: Mapping[str, ColumnNames]) -> None:
    for place, names in ((row, _asked(row, known)), *_nested(row, known)):
        for name in place:
            if name not in names:
                raise InvalidRequestError(
                    f"row {index}",
                    f"unknown feature {quote(name)}, or its input is given as a whole; the model's "
                    "metadata has its names",
                )


def _asked(row: Mapping[str, Any], known: Mapping[str, ColumnNames]) -> set[str]:
    """Return the names of what was taken from a row: of each input, or of its columns."""
    asked: set[str] = set()
    for name, names in known.items():
        whole = not names.labels or _is_whole(row, name, names)
        asked.update((name,) if whole else names.labels)
    return asked


def _nested(
    row: Mapping[str, Any], known: Mapping[str, ColumnNames]
) -> Iterator[tuple[Mapping[str, Any], set[str]]]:
    """Yield what a row has as an input's object, with the names of its columns."""
    for name, names in known.items():
        if _is_whole(row, name, names) and type(row[name]) is dict:
            yield row[name], set(names.labels)


def _is_whole(row: Mapping[str, Any], name: str, names: ColumnNames) -> bool:
    """Return whether a row has an input whose columns have names under its own name."""
    return name not in names.labels and type(row.get(name)) in (list, dict)


def _shown(output: str, array: NDArray[Any], names: ColumnNames) -> list[dict[str, Any]]:
    """Return an output's entry of each row."""
    values = _json(array)
    if array.ndim != _ROWS or array.dtype.kind not in "fiub":
        return [{"values": row} for row in values]
    width = array.shape[1]
    labels = column_labels(names.labels, width)
    named = labels if len(set(labels)) == width else ()
    shared: dict[str, Any] = {}
    if any(names.units) and len(names.units) == width:
        shared["units"] = _by_name(named, names.units)
    entries = [{"values": _by_name(named, row)} | shared for row in values]
    decided = verdicts(output, array, names)
    if decided is not None:
        kind, each = decided
        for entry, verdict in zip(entries, each, strict=True):
            entry[kind] = verdict
    return entries


def verdicts(output: str, array: NDArray[Any], names: ColumnNames) -> tuple[str, list[Any]] | None:
    """Return "label" or "labels", and each row's; None for an output without a verdict."""
    if array.ndim != _ROWS or array.dtype.kind not in "fiub":
        return None
    kind = verdict_kind(names, array.shape[1])
    if kind is None:
        return None
    decide = labels_of_rows if kind == "label" else labels_that_hold
    return kind, decide(output, array, names)


def _by_name(names: Sequence[str], values: Sequence[Any]) -> Any:
    return dict(zip(names, values, strict=True)) if names else list(values)


def _json(array: NDArray[Any]) -> Any:
    """Return an array as nested lists of what JSON has."""

    def of(value: Any) -> Any:
        if type(value) is list:
            return list(map(of, value))
        return value.decode("utf-8", "replace") if type(value) is bytes else word(value)

    listed = array.astype(np.float64) if array.dtype.kind == "f" else array
    return of(listed.tolist())
