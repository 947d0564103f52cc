"""Rows of a Parquet file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.cli.rows.chunk import Chunk, Progress, Typed, Wanted, find_columns, no_rows
from forwardpass.cli.rows.numbers import CellError, Reading, missing_text


class ParquetRows:
    """A Parquet file of which only the needed columns are read."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        """Read its index; raises CommandError for another kind of file or missing columns."""
        self._name = str(path)
        self._wanted = wanted
        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise CommandError(f"{path}: not a Parquet file ({error})") from error
        header = [*self._file.schema_arrow.names, *wanted.fixed]
        columns = find_columns(self._name, header, wanted)
        self._features = [header[index] for index in columns.features]
        self._read = [*self._features, *wanted.keep]
        self._fixed = {
            name: pa.scalar(text, pa.string()) if name in wanted.keep else self._number(name)
            for name, text in wanted.fixed.items()
            if name in self._read
        }
        for name in self._features:
            if name in wanted.fixed:
                continue
            kind = self._file.schema_arrow.field(name).type
            if not _is_numeric(kind):
                raise CommandError(
                    f"{path}: column {name!r}: expected numbers, got {kind}; cast it"
                )
        self._done = 0

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Yield the rows; see Source."""
        self._done = skip
        groups, left = self._groups_after(skip)
        held: list[pa.RecordBatch] = []
        names = [name for name in self._read if name not in self._fixed]
        for batch in self._file.iter_batches(size, row_groups=groups, columns=names):
            held.append(batch.slice(min(left, len(batch))))
            left -= min(left, len(batch))
            # Batches end with their row group; chunks have to be the same after any `skip`.
            while sum(map(len, held)) >= size:
                whole = pa.Table.from_batches(held).combine_chunks()
                yield self._chunk(whole.slice(0, size))
                held = whole.slice(size).to_batches()
        if sum(map(len, held)):
            yield self._chunk(pa.Table.from_batches(held).combine_chunks())
        elif self._done == 0:
            nothing = pa.Table.from_pylist([], self._file.schema_arrow)
            kept = self._chunk(nothing).kept
            yield Chunk(source=self._name, x=no_rows(self._wanted), kept=kept, start=0)

    def progress(self) -> Progress:
        """Return the rows read, and those of the file."""
        return Progress(self._done, self._file.metadata.num_rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _groups_after(self, skip: int) -> tuple[list[int], int]:
        """Return the row groups with rows after the first `skip`, and the rows to skip in them."""
        first, count = 0, self._file.num_row_groups
        while first < count and skip >= self._file.metadata.row_group(first).num_rows:
            skip -= self._file.metadata.row_group(first).num_rows
            first += 1
        return list(range(first, count)), skip

    def _chunk(self, table: pa.Table) -> Chunk:
        start, self._done = self._done, self._done + len(table)
        for name, value in self._fixed.items():
            table = table.append_column(name, pa.repeat(value, len(table)))
        columns = [self._numbers(name, table[name], start) for name in self._features]
        x = np.stack(columns, axis=1) if columns else np.empty((len(table), 0))
        kept = {
            name: Typed(table[name].to_pylist(), table[name].type) for name in self._wanted.keep
        }
        return Chunk(source=self._name, x=x, kept=kept, start=start, columns=self._features)

    def _number(self, name: str) -> pa.Scalar:
        """Return a fixed column's value as a number, so far as it is not null."""
        text = self._wanted.fixed[name]
        try:
            number = None if text is None else Reading(whole=self._wanted.whole).cell(text)
        except CellError as error:
            raise CommandError(f"{self._name}: folder of column {name!r}: {error}") from error
        return pa.scalar(number, pa.int64() if self._wanted.whole else pa.float64())

    def _numbers(self, name: str, column: pa.ChunkedArray, start: int) -> NDArray[Any]:
        refused = self._wanted.missing != "nan" and name not in self._wanted.filled
        if column.null_count and (refused or self._wanted.whole):
            row = start + column.is_null().to_pylist().index(True) + 1
            raise CommandError(
                f"{self._name}: row {row}, column {name!r}: "
                + missing_text("null", whole=self._wanted.whole)
            )
        if column.null_count:
            # Booleans with a null among them become objects.
            column = column.cast(pa.float64())
        array: NDArray[Any] = column.to_numpy()
        return array


def _is_numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)
