"""Any Arrow stream in, a stream of answers out."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from forwardpass.batch.scorer import Model, scorer_of


def arrow_map(rows: Any, model: Model, *, keep: Sequence[str] = ()) -> pa.RecordBatchReader:
    """Return the answers for a stream of rows, batch by batch; nothing is read ahead.

    rows: anything with Arrow's C stream interface (a Table, a RecordBatchReader, a DataFrame of
        polars, a relation of DuckDB), or an iterable of record batches of one schema.
    keep: columns of the rows to pass through, in front of the answers.

    Raises ValueError for columns to keep that do not fit; reading raises InvalidInputError for rows
    that do not fit the model, after the batches before them.
    """
    scorer = scorer_of(model)
    schema, batches = _stream(rows)
    answers = scorer.with_kept(schema, keep) if keep else scorer.schema
    return pa.RecordBatchReader.from_batches(
        answers, (scorer.score(batch, keep) for batch in batches)
    )


def _stream(rows: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if hasattr(rows, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(rows)
        return reader.schema, reader
    batches = iter(rows)
    first = next(batches, None)
    if first is None:
        return pa.schema([]), iter(())
    return first.schema, _again(first, batches)


def _again(first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others
