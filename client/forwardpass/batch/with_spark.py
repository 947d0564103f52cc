"""A model in Spark: as a function of columns, and over Arrow batches."""

from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, Signature
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forwardpass.batch.scorer import ROWS, Model, Scorer, scorer_of


def spark_map(frame: Any, model: Model, *, keep: Sequence[str] = ()) -> Any:
    """Return the answers for a DataFrame of Spark as another, by `mapInArrow`.

    NULL is a missing value here; NaN is one that the model decides.

    keep: columns to pass through, in front of the answers.

    Raises ValueError for columns to keep that do not fit; actions raise Spark's PythonException for
    rows that do not fit the model.
    """
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField, StructType

    scorer = scorer_of(model)
    scorer.check_kept(frame.columns, keep)
    kept = [frame.schema[name] for name in keep]
    # As text it would be read by the workers, which have no session for that.
    schema = StructType(
        [*kept, *(StructField(each.name, from_arrow_type(each.type)) for each in scorer.schema)]
    )

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield scorer.score(batch, keep)

    # Spark's arrays would go over with every column otherwise.
    wanted = [name for name in frame.columns if name in scorer.datatypes or name in keep]
    return frame.select(*map(_quoted, wanted)).mapInArrow(score, schema)


def spark_udf(model: Model) -> Callable[..., Any]:
    """Return a function of columns that gives the answers as a struct, by `predict_batch_udf`.

    Called without arguments it takes the columns with the names of the model's; else columns in the
    order of `Scorer.columns`. Spark makes NaN of NULL before the model sees it: with `missing` as
    `refuse`, NaN is rejected as well. `spark_map` knows one from the other, and is faster.

    Raises ValueError for a model with several labels for a row, which the function cannot return.
    """
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.functions import col
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField, StructType

    scorer = scorer_of(model)
    lists = [field.name for field in scorer.schema if pa.types.is_list(field.type)]
    if lists:
        raise ValueError(
            f"model {scorer.name!r}: expected one label for a row, got several for {lists[0]!r}; "
            "use spark_map, or Scorer(model, labels=False)"
        )
    schema = StructType(
        [StructField(each.name, from_arrow_type(each.type)) for each in scorer.schema]
    )
    score = predict_batch_udf(_Predicting(scorer), return_type=schema, batch_size=ROWS)

    def answers(*columns: Any) -> Any:
        return score(*(columns or [col(_quoted(name)) for name in scorer.columns]))

    return answers


class _Predicting:
    """Makes the function that predict_batch_udf calls with an array for each column."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def __call__(self) -> Callable[..., dict[str, NDArray[Any]]]:
        scorer = self._scorer

        def predict(*columns: NDArray[Any]) -> dict[str, NDArray[Any]]:
            # Of what was NULL and is NaN by now, NULL again: whether it may be is the Scorer's.
            arrays = [pa.array(column, from_pandas=True) for column in columns]
            answers = scorer.score(pa.RecordBatch.from_arrays(arrays, scorer.columns))
            return {
                name: np.asarray(answers.column(name).to_numpy(zero_copy_only=False))
                for name in answers.schema.names
            }

        # Spark counts the parameters to know that each column is one.
        parameters = [
            Parameter(f"column_{place}", Parameter.POSITIONAL_ONLY)
            for place in range(len(scorer.columns))
        ]
        predict.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return predict


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
