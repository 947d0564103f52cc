"""A model as an expression of polars."""

from typing import Any

import polars as pl
import pyarrow as pa

from forwardpass.batch.scorer import Model, scorer_of


def polars_expr(model: Model) -> pl.Expr:
    """Return an expression of the answers for the columns that the model takes, as a struct.

    `frame.select("id", polars_expr(path).alias("answer")).unnest("answer")`. It works in eager and
    lazy frames, and in the streaming engine portion by portion.

    A query raises InvalidInputError for rows that do not fit the model.
    """
    scorer = scorer_of(model)
    empty: Any = pl.from_arrow(scorer.schema.empty_table())

    def score(rows: pl.Series) -> pl.Series:
        answers: Any = pl.from_arrow(scorer.score_table(_table(rows)))
        return pl.Series(answers.to_struct())

    return pl.struct(*scorer.columns).map_batches(
        score, return_dtype=pl.Struct(empty.schema), is_elementwise=True
    )


def _table(rows: pl.Series) -> pa.Table:
    return rows.struct.unnest().to_arrow(compat_level=pl.CompatLevel.oldest())
