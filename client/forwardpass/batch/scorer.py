"""A model's file as a function of tables: what every engine's worker calls."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forwardpass.batch.opening import ModelFile
from forwardpass.client import InvalidInputError, ModelSpec, Prediction
from forwardpass.client._messages.columns import feature_names, output_columns
from forwardpass.client._messages.missing import Missing, check_missing
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.verdicts import column_headings, verdict_kind

ROWS = 4096
"""Maximum rows of a run: the cost of a row falls up to here and rises behind 16,384, where the
values no longer fit the caches (30-64-32-2; larger networks cost the same from 512 on)."""

_PLAIN = (pa.float32(), pa.float64())

Model: TypeAlias = "str | os.PathLike[str] | bytes | Scorer"
"""A model's file by its path or bytes, or a Scorer of it."""


class _Layout(NamedTuple):
    """Where the columns of a model are in the batches of one schema."""

    schema: pa.Schema
    places: list[int]
    is_whole: bool
    """Whether each column is there once."""
    is_dense: bool
    """Whether they are floats, as one array."""


class Scorer:
    """A model's file as a function of tables; it pickles, with the file in it.

    Each process opens the file once and proves it by the samples that it carries, before the first
    answer. Columns go to features by name. Answers are columns with the names that
    `Prediction.table` gives them.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        columns: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        labels: bool = True,
        missing: Missing = "refuse",
        threads: int = 1,
        ship: bool = True,
    ) -> None:
        """Open the file here, and prove it.

        model: its path, or its bytes, as read from an object store.
        columns: the columns for the features in the model's order, where the file does not name
            them; None for the names in the file.
        outputs: names of the outputs to compute; None for all.
        labels: Whether a column has the verdict of each row, where the file has labels.
        missing: how nulls are treated: `refuse`, or `nan` to send NaN. A NaN of an Arrow column is
            a value; in pandas it is a missing one, as everywhere.
        threads: threads of a run of onnxruntime.
        ship: Whether the file's bytes travel with the job. If not, each worker reads the path, and
            refuses a file with other bytes.

        Raises ModelFileError if the file is no model, or answers its samples wrong; ValueError for
        a model that does not answer row by row, and for columns or outputs that do not fit it.
        """
        check_missing(missing)
        self._file = ModelFile.of(model, threads=threads, ship=ship)
        self._missing: Missing = missing
        self._labels = labels
        client = self._file.opened()
        self.name = client.model
        """Name of the model."""
        spec = client.metadata(self.name)
        for tensor in (*spec.inputs, *spec.outputs):
            if tensor.shape[:1] != (-1,) or -1 in tensor.shape[1:]:
                raise ValueError(
                    f"model {self.name!r}: expected a row of one length for each row of a table, "
                    f"got {tensor}; score it with `load`"
                )
        wanted = _wanted(spec, outputs)
        self.inputs = spec.inputs
        """The inputs of the model."""
        self.outputs = {tensor.name: tensor for tensor in wanted}
        """The outputs that are computed, by name."""
        self._datatypes = _columns(spec, columns)
        self._layout: _Layout | None = None
        """That of the last batch: all of a job have one schema."""
        empty = {
            tensor.name: np.empty((0, *tensor.shape[1:]), DATATYPES[tensor.datatype].dtype)
            for tensor in wanted
        }
        answers = Prediction(empty, self.name, "", columns=output_columns(spec))
        self.schema = pa.schema(_fields(answers, labels=labels))
        """The columns of the answers; the unit of one is in its metadata, as `unit`."""

    @property
    def datatypes(self) -> dict[str, str]:
        """The wire datatype of each column that the model takes, in its order.

        Raises ValueError if nothing names them.
        """
        if not self._datatypes:
            raise ValueError(
                f"model {self.name!r}: expected names for the features of "
                f"{', '.join(map(str, self.inputs))}, got none in its file; export it with "
                "features, or pass Scorer(..., columns=[...]) in the model's order"
            )
        return self._datatypes

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the model takes, in its order."""
        return tuple(self.datatypes)

    def check_kept(self, names: Sequence[str], keep: Sequence[str]) -> None:
        """Check that columns of a table with these names can stand in front of the answers.

        Raises ValueError for one that the table does not have once, and for the name of an answer.
        """
        for name in keep:
            found = names.count(name)
            if found != 1 or keep.count(name) > 1 or name in self.schema.names:
                raise ValueError(
                    f"keep: expected names of columns that are there once ({', '.join(names)}), "
                    f"and no answer's ({', '.join(self.schema.names)}), got {name!r}; "
                    "rename the column, or leave it out"
                )

    def with_kept(self, schema: pa.Schema, keep: Sequence[str]) -> pa.Schema:
        """Return the schema of answers behind columns to keep; raises as `check_kept`."""
        self.check_kept(schema.names, keep)
        return pa.schema([*(schema.field(name) for name in keep), *self.schema])

    def only_output(self, output: str | None) -> TensorSpec:
        """Return an output by its name, the only one for None; raises ValueError."""
        if output is None and len(self.outputs) == 1:
            output = next(iter(self.outputs))
        if output is None or output not in self.outputs:
            raise ValueError(
                f"output: expected one of {', '.join(self.outputs)}, got {output!r}; name it"
            )
        return self.outputs[output]

    def score(self, rows: pa.RecordBatch, keep: Sequence[str] = ()) -> pa.RecordBatch:
        """Return the answers for rows, and in front of them the columns to keep.

        Other columns are ignored. Large batches run in pieces.

        Raises InvalidInputError if the rows do not fit the model, and as `with_kept`.
        """
        answers = pa.concat_batches(
            [
                self._answered(rows.slice(start, ROWS), start)
                for start in range(0, max(1, len(rows)), ROWS)
            ]
        )
        if not keep:
            return answers
        schema = self.with_kept(rows.schema, keep)
        return pa.record_batch([*map(rows.column, keep), *answers.columns], schema=schema)

    def score_table(self, table: pa.Table, keep: Sequence[str] = ()) -> pa.Table:
        """As `score`, for a table, whose chunks run one by one."""
        batches = [self.score(batch, keep) for batch in table.to_batches()]
        return pa.Table.from_batches(batches, self.with_kept(table.schema, keep))

    def score_array(self, x: NDArray[Any], output: str) -> NDArray[Any]:
        """Return one output for rows (k, ...) of features in the model's order."""
        return np.concatenate(
            [
                self._predict(x[start : start + ROWS], [output])[output]
                for start in range(0, max(1, len(x)), ROWS)
            ]
        )

    def _answered(self, rows: pa.RecordBatch, start: int) -> pa.RecordBatch:
        if not len(rows):
            return pa.RecordBatch.from_pylist([], self.schema)
        try:
            table = self._predicted(rows).table(labels=self._labels)
        except InvalidInputError as error:
            if start:
                error.add_note(f"rows are counted from row {start} of the batch")
            raise
        arrays = [_array(table[field.name], field.type) for field in self.schema]
        if {*map(len, arrays)} != {len(rows)}:
            raise ValueError(
                f"model {self.name!r}: expected an answer for each of {len(rows)} rows, got "
                f"{len(arrays[0])}; score it with `load`"
            )
        return pa.record_batch(arrays, schema=self.schema)

    def _predicted(self, rows: pa.RecordBatch) -> Prediction:
        known = self._layout
        if known is None or not known.schema.equals(rows.schema):
            self._layout = known = _layout(rows.schema, self.columns, len(self.inputs))
        given = rows.select(known.places)
        if known.is_dense:
            # All columns copied at once: one by one they cost as much as a small network. Arrow
            # refuses nulls there, and the client what does not fit; below, by the column's name.
            with suppress(pa.ArrowTypeError, InvalidInputError):
                return self._predict(given.to_tensor().to_numpy())
        if not known.is_whole:
            # A column that is there twice, or not at all: the client says which.
            return self._predict(given)
        return self._predict(dict(zip(self.columns, map(_readable, given.columns), strict=True)))

    def _predict(self, x: Any, outputs: Sequence[str] | None = None) -> Prediction:
        return self._file.opened().predict(
            self.name, x, outputs=outputs or [*self.outputs], missing=self._missing
        )


def scorer_of(model: Model) -> Scorer:
    """Return the Scorer of a model's file, with its defaults, or the one given."""
    return model if isinstance(model, Scorer) else Scorer(model)


def _wanted(spec: ModelSpec, outputs: Sequence[str] | None) -> list[TensorSpec]:
    there = {tensor.name: tensor for tensor in spec.outputs}
    names = [*there] if outputs is None else outputs
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        raise ValueError(
            f"outputs: expected some of {', '.join(map(repr, there))}, got {[*names]}; "
            "leave it out for all"
        )
    return [there[name] for name in names]


def _columns(spec: ModelSpec, columns: Sequence[str] | None) -> dict[str, str]:
    """Return the datatype of each column that the inputs take; empty if some have no names."""
    features = feature_names(spec)
    if columns is not None:
        (first, *others) = spec.inputs
        if others or first.name in features or len({*columns}) != prod(first.shape[1:]):
            raise ValueError(
                f"columns: expected a name for each feature of a model that names none, got "
                f"{len(columns)} for {', '.join(map(str, spec.inputs))}; leave it out, or name all"
            )
        return dict.fromkeys(columns, first.datatype)
    found: dict[str, str] = {}
    for tensor in spec.inputs:
        if tensor.name not in features and prod(tensor.shape[1:]) != 1:
            return {}
        found |= dict.fromkeys(features.get(tensor.name, (tensor.name,)), tensor.datatype)
    return found


def _fields(answers: Prediction, *, labels: bool) -> Iterator[pa.Field]:
    """Yield a field for each column of `Prediction.table`, in its order."""
    for name, array in answers.items():
        about = answers.columns.get(name, ColumnNames())
        width = prod(array.shape[1:])
        kind = pa.string() if array.dtype == object else pa.from_numpy_dtype(array.dtype)
        for place, heading in enumerate(column_headings(name, about.labels, width)):
            unit = about.units[place] if place < len(about.units) else ""
            yield pa.field(heading, kind, metadata={"unit": unit} if unit else None)
        verdict = verdict_kind(about, width) if labels and array.ndim == 2 else None
        if verdict is not None:
            yield pa.field(name, pa.string() if verdict == "label" else pa.list_(pa.string()))


def _layout(schema: pa.Schema, columns: Sequence[str], inputs: int) -> _Layout:
    places = [schema.get_field_index(name) for name in columns]
    if -1 in places:
        some = [place for place, name in enumerate(schema.names) if name in columns]
        return _Layout(schema, some, is_whole=False, is_dense=False)
    are_plain = all(schema.field(place).type in _PLAIN for place in places)
    return _Layout(schema, places, is_whole=True, is_dense=inputs == 1 < len(places) and are_plain)


def _readable(column: pa.Array) -> Any:
    """Return a column as the client reads it fastest, with its nulls."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    plain = pa.types.is_primitive(column.type) and not pa.types.is_temporal(column.type)
    return column.to_numpy(zero_copy_only=False) if plain and not column.null_count else column


def _array(column: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(column, np.ndarray) and column.dtype == object:
        column = [each.decode() for each in column]
    return pa.array(column, kind)
