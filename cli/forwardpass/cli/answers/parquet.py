"""Answers as Parquet, to which nothing can be appended: kept as Arrow until all are there."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forwardpass.cli.answers.table import LabelsOfRows, Table
from forwardpass.cli.errors import CommandError
from forwardpass.cli.replacing import replacing
from forwardpass.cli.rows import Typed

_ROW_GROUP = 2**16


class ParquetAnswers:
    """An Arrow stream for each table, one after another; at the end a Parquet file of all."""

    def __init__(self, written: Path | None) -> None:
        """Read the types of the columns from the file begun, or else from the first table."""
        self._schema: pa.Schema | None = None
        if written is not None and written.stat().st_size:
            self._schema = next(_batches(written)).schema

    def encode(self, table: Table, *, first: bool) -> bytes:
        """Return a table as a separate stream."""
        del first
        if self._schema is None:
            self._schema = pa.schema([(name, _type(column)) for name, column in table.items()])
        arrays = [_array(field, table[field.name]) for field in self._schema]
        batch = pa.record_batch(arrays, schema=self._schema)
        stream = BytesIO()
        with pa.ipc.new_stream(stream, self._schema) as writer:
            writer.write_batch(batch)
        return stream.getvalue()

    def finish(self, part: Path, rows: int, to: Path) -> None:
        """Write the Parquet file, some row groups in memory at a time, and put it in its place."""
        del rows
        batches = _batches(part)
        first = next(batches)
        with replacing(to) as file, pq.ParquetWriter(file, first.schema) as writer:
            held = [first]
            for batch in batches:
                if sum(map(len, held)) >= _ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(held))
                    held = []
                held.append(batch)
            writer.write_table(pa.Table.from_batches(held))
        part.unlink()


def _batches(part: Path) -> Iterator[pa.RecordBatch]:
    size = part.stat().st_size
    with part.open("rb") as file:
        while file.tell() < size:
            with pa.ipc.open_stream(file) as stream:
                yield from stream


def _type(column: Any) -> pa.DataType:
    """Return the type of a column.

    Of a kept one its own, if the file of rows has types; else text unless all are numbers or
    booleans.
    """
    if isinstance(column, Typed):
        kind: pa.DataType = column.kind
        return kind.value_type if pa.types.is_dictionary(kind) else kind
    if isinstance(column, np.ndarray):
        return pa.from_numpy_dtype(column.dtype)
    if isinstance(column, LabelsOfRows):
        return pa.list_(pa.string())
    values = [value for value in column if value is not None]
    if values and isinstance(values[0], list):
        return pa.list_(pa.string())
    for kind, arrow in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        if values and all(type(value) is kind for value in values):
            return arrow
    return pa.string()


def _array(field: pa.Field, column: NDArray[Any] | Sequence[Any]) -> pa.Array:
    if field.type == pa.string():
        column = [None if value is None else str(value) for value in column]
    try:
        return pa.array(column, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CommandError(
            f"--output: column {field.name!r}: expected {field.type} as in the first rows ({error})"
            "; write .csv or .jsonl"
        ) from error
