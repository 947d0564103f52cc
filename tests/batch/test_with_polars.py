"""A model as an expression of polars."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from batch.rows import ANSWERS, Expected, pieces

from forwardpass.batch import Scorer, polars_expr
from forwardpass.client import InvalidInputError


def frame(rows: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(rows)


@pytest.mark.parametrize("engine", ["eager", "in-memory", "streaming"])
def test_it_gives_the_bits_of_load(
    file: Path, rows: pa.Table, expected: Expected, engine: Any
) -> None:
    random = pl.concat([frame(each) for each in pieces(rows, 5)], rechunk=False)
    answer = polars_expr(file).alias("answer")
    if engine == "eager":
        answers = random.select("id", answer)
    else:
        answers = random.lazy().select("id", answer).collect(engine=engine)
    flat = answers.unnest("answer").to_arrow(compat_level=pl.CompatLevel.oldest())
    expected.check(flat)


def test_its_type_is_known_before_it_runs(file: Path, rows: pa.Table) -> None:
    lazy = frame(rows).lazy().select(polars_expr(file).alias("answer")).unnest("answer")
    assert lazy.collect_schema() == {
        name: pl.String if name == "risk" else pl.Float32 for name in ANSWERS
    }
    assert frame(rows).head(0).lazy().select(polars_expr(file)).collect().shape == (0, 1)


def test_nulls_are_refused_unless_they_are_to_be_nan(file: Path, rows: pa.Table) -> None:
    holes = frame(rows).head(4).with_columns(width=pl.Series([1.0, None, 2.0, 3.0]))
    with pytest.raises(InvalidInputError, match=r"'width': expected a value.*row 1"):
        holes.select(polars_expr(file))
    sent = holes.select(polars_expr(Scorer(file, missing="nan")).alias("a")).unnest("a")
    assert sent["risk.low"].is_nan().to_list() == [False, True, False, False]
    assert sent["risk"].is_null().to_list() == [False, True, False, False]


def test_a_column_that_is_not_there_is_an_error_of_polars(file: Path, rows: pa.Table) -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="width"):
        frame(rows).drop("width").select(polars_expr(file))
