"""A model as a function for Ray Data."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from forwardpass.batch.scorer import Model, scorer_of


def ray_udf(model: Model, *, keep: Sequence[str] = ()) -> Callable[[pa.Table], pa.Table]:
    """Return a function for `Dataset.map_batches(..., batch_format="pyarrow")`.

    It runs in Ray's tasks, each process of which opens the file once.

    keep: columns to pass through, in front of the answers.

    The dataset raises ray.exceptions.RayTaskError for rows that do not fit the model.
    """
    scorer = scorer_of(model)

    def score(rows: pa.Table) -> pa.Table:
        return scorer.score_table(rows, keep)

    return score
