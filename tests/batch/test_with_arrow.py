"""Streams of Arrow."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from batch.rows import ANSWERS, Expected, pieces

from forwardpass.batch import Scorer, arrow_map
from forwardpass.client import InvalidInputError


@pytest.mark.parametrize("seed", range(3))
def test_random_batches_get_the_bits_of_load(
    file: Path, rows: pa.Table, expected: Expected, seed: int
) -> None:
    batches = [batch for piece in pieces(rows, seed) for batch in piece.to_batches()]
    expected.check(arrow_map(batches, file, keep=["id"]).read_all())


def test_anything_with_an_arrow_stream_is_taken(
    file: Path, rows: pa.Table, expected: Expected
) -> None:
    scorer = Scorer(file)
    for stream in (rows, rows.to_reader(5_000), pl.DataFrame(rows)):
        expected.check(arrow_map(stream, scorer, keep=["id"]).read_all())


def test_nothing_is_read_ahead(file: Path, rows: pa.Table) -> None:
    read = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for batch in rows.to_batches(max_chunksize=10):
            read += 1
            yield batch

    answers = arrow_map(batches(), file)
    for number in range(1, 4):
        assert len(answers.read_next_batch()) == 10
        assert read == number


def test_answers_before_a_row_that_does_not_fit_are_given(file: Path, rows: pa.Table) -> None:
    good = rows.slice(0, 5).combine_chunks()
    nulls = pa.nulls(5, pa.float32())
    bad = good.set_column(good.column_names.index("width"), "width", nulls)
    answers = arrow_map([*good.to_batches(), *bad.to_batches()], file)
    assert len(answers.read_next_batch()) == 5
    with pytest.raises(InvalidInputError, match="'width': expected a value everywhere"):
        answers.read_next_batch()


def test_no_batches_give_no_answers(file: Path) -> None:
    assert arrow_map([], file).read_all().column_names == [*ANSWERS]
