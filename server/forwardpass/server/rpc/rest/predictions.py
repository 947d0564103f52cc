"""Predictions of named features: objects -> a ModelInfer call -> labels, values and units.

Our addition to the protocol: `POST /v2/models/NAME:predict`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.categories import check_known, read_categories
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.explain import feature_names
from forwardpass.proto.metadata import INPUTS, ColumnNames, load_columns
from forwardpass.proto.spec import TensorError, TensorSpec, meant, quote
from forwardpass.proto.tensors import decode_raw
from forwardpass.proto.verdicts import (
    column_labels,
    labels_of_rows,
    labels_that_hold,
    verdict_kind,
)
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import InvalidRequestError, InvalidTensorError, JsonTooLargeError
from forwardpass.server.rpc.rest.decimals import Number, TextNeededError, read_numbers
from forwardpass.server.rpc.rest.infer_replies import Body, dumps, word
from forwardpass.server.rpc.rest.infer_requests import InferRequests, kind_of, load_json
from forwardpass.server.rpc.rest.long_texts import WORDS, Word

MAX_BYTES = 2**19
"""Maximum size of a body, in bytes."""
_MAX_REPLY_BYTES = 2**22
"""Maximum size of the reply that is shown by label, in bytes."""
_ROWS = 2
"""Axes of a tensor of rows."""
_MISSING = "NaN"
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "b": ("true or false", (bool,)),
    "i": ("an integer", (int, Number)),
    "u": ("an integer", (int, Number)),
    "f": ("a number", (int, float, Number, Word)),
    "O": ("a text", (str,)),
}
"""What a value may be in JSON, by the kind of NumPy's dtype."""


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

    Raises InvalidRequestError, InvalidTensorError, JsonTooLargeError.
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
    # Missing features first: an unknown one may be a misspelt name of theirs.
    values = {
        name: [_row(index, row, name, spec, known) for index, row in enumerate(rows)]
        for name, spec in model.inputs.items()
    }
    for index, row in enumerate(rows):
        _check_known(index, row, known)
    inputs = [
        {
            "name": name,
            "datatype": spec.datatype,
            "shape": [len(rows), *spec.shape[1:]],
            "data": _data(model.name, spec, known[name], values[name]),
        }
        for name, spec in model.inputs.items()
    ]
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
    index: int,
    row: Mapping[str, Any],
    name: str,
    spec: TensorSpec,
    known: Mapping[str, ColumnNames],
) -> Sequence[Any]:
    """Return an input's elements in a row."""
    own, names = row.get(name), known[name]
    if type(own) is list and name not in names.labels:
        flat = own
        while flat and type(flat[0]) is list:
            flat = [each for part in flat for each in (part if type(part) is list else [part])]
        return _of_size(index, name, spec, flat)
    if not names.labels:
        # A single column needs no list; a missing category is a value.
        if type(own) is not dict and (own is not None or (names.categories and name in row)):
            return _of_size(index, name, spec, [own])
        what = "a category" if names.categories else "a list of numbers: its columns have no names"
        raise _absent(index, row, name, [name], f"{quote(name)} as {what}", known)
    whole = type(own) is dict and name not in names.labels
    source: Mapping[str, Any] = own if whole else row  # type: ignore[assignment]
    missing = [label for label in names.labels if label not in source]
    if missing:
        place = {name: names} if whole else known
        raise _absent(index, source, missing[0], missing, f"feature {quote(missing[0])}", place)
    return [source[label] for label in names.labels]


def _absent(
    index: int,
    source: Mapping[str, Any],
    first: str,
    missing: Sequence[str],
    expected: str,
    known: Mapping[str, ColumnNames],
) -> InvalidRequestError:
    unknown = [each for each in source if each not in _all_names(known)]
    fix = next(filter(None, (meant(each, missing) for each in unknown)), "send all features")
    got = f"got none, and {quote(unknown[0])}, which is none of them" if unknown else "got none"
    if first in source:
        got = f"got {kind_of(source[first])}"
    return InvalidRequestError(f"row {index}", f"expected {expected}, {got}; {fix}")


def _all_names(known: Mapping[str, ColumnNames]) -> set[str]:
    """Return what a row may have names of: inputs, and their columns."""
    return {*known, *(label for names in known.values() for label in names.labels)}


def _data(
    model: str, spec: TensorSpec, names: ColumnNames, rows: Sequence[Sequence[Any]]
) -> list[Any]:
    """Return an input's elements, of all rows.

    Raises InvalidTensorError for a category for which the model has no answer, as our clients do,
    and InvalidRequestError for another kind of value.
    """
    data = [value for row in rows for value in row]
    if names.categories:
        if Number in set(map(type, data)):
            data = read_numbers(data, spec.datatype)
        place = f"input {quote(spec.name)}"
        try:
            categories = read_categories(place, spec.datatype, [[each] for each in data])
            check_known(place, names, categories, may_miss=False)
        except TensorError as error:
            raise InvalidTensorError(model, error) from error
        return categories.ravel().tolist()
    dtype = DATATYPES.get(spec.datatype)
    expected, kinds = _KINDS.get(dtype.dtype.kind if dtype else "", ("", ()))
    if not kinds or not set(map(type, data)) - {*kinds}:
        return data
    width = len(rows[0])
    for at, value in enumerate(data):
        column = at % width
        filled = names.fill[column] is not None if len(names.fill) == width else False
        if value is None and filled:
            data[at] = _MISSING
        elif type(value) not in kinds and not (float in kinds and _is_word(value)):
            feature = names.labels[column] if names.labels else spec.name
            fix = f"send {expected}"
            if value is None and float in kinds:
                fix = f'fill it in, or send "{_MISSING}" for no answer'
            raise InvalidRequestError(
                f"row {at // width}",
                f"expected {quote(feature)} as {expected}, got {_described(value)}; {fix}",
            )
    return data


def _is_word(value: Any) -> bool:
    return type(value) is str and value in WORDS


def _described(value: Any) -> str:
    return f"the text {quote(value)}" if type(value) is str else kind_of(value)


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
                whole = name in _all_names(known)
                why = ", since its input is given in another way" if whole else ""
                raise InvalidRequestError(
                    f"row {index}", f"unknown feature {quote(name)}{why}; leave it out"
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
