"""Rows of a Parquet file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forwardpass.cli.errors import CommandError
from forwardpass.cli.rows.chunk import Chunk, Progress, Wanted, find_columns, no_rows
from forwardpass.cli.rows.numbers import missing_text


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
        header = self._file.schema_arrow.names
        columns = find_columns(self._name, header, wanted)
        self._features = [header[index] for index in columns.features]
        for name in self._features:
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
        names = [*self._features, *self._wanted.keep]
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
            kept: dict[str, list[Any]] = {name: [] for name in self._wanted.keep}
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
        columns = [self._numbers(name, table[name], start) for name in self._features]
        x = np.stack(columns, axis=1) if columns else np.empty((len(table), 0))
        kept = {name: table[name].to_pylist() for name in self._wanted.keep}
        return Chunk(source=self._name, x=x, kept=kept, start=start, columns=self._features)

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
