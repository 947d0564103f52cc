"""A model over the partitions of Dask's DataFrames, and over the blocks of its arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forwardpass.batch.scorer import Model, Scorer, scorer_of
from forwardpass.proto.datatypes import DATATYPES


def dask_frame(frame: Any, model: Model, *, keep: Sequence[str] = ()) -> Any:
    """Return the answers for a Dask DataFrame as another, with its partitions and its index.

    keep: columns to pass through, in front of the answers. NA, NaN and None are missing values, as
    pandas counts them.

    Raises ValueError for columns to keep that do not fit; `compute` raises InvalidInputError for
    rows that do not fit the model.
    """
    scorer = scorer_of(model)
    scorer.check_kept(list(frame.columns), keep)
    meta = _scored(frame._meta, scorer, keep)
    return frame.map_partitions(_scored, scorer, keep, meta=meta)


def dask_array(x: Any, model: Model, *, output: str | None = None) -> Any:
    """Return one output (k, m) for a Dask array of rows (k, n), of features in the model's order.

    output: its name; None for the only one.

    Raises ValueError for another number of features than the model's, and if there are several
    outputs and none is named.
    """
    scorer = scorer_of(model)
    answer = scorer.only_output(output)
    (taken, *others) = scorer.inputs
    if others or len(taken.shape) != 2 or len(answer.shape) != 2:
        raise ValueError(
            f"model {scorer.name!r}: expected one input [-1, n] and an output [-1, m], got "
            f"{', '.join(map(str, (*scorer.inputs, answer)))}; use dask_frame"
        )
    if x.ndim != 2 or x.shape[1] != taken.shape[1]:
        raise ValueError(
            f"x: expected an array [k, {taken.shape[1]}], got {list(x.shape)}; give one column for "
            "each feature"
        )
    # A block has to have all features of its rows.
    whole = x.rechunk({1: -1})
    width, dtype = answer.shape[1], DATATYPES[answer.datatype].dtype
    return whole.map_blocks(
        scorer.score_array,
        answer.name,
        chunks=(whole.chunks[0], (width,)),
        meta=np.empty((0, width), dtype),
    )


def _scored(frame: Any, scorer: Scorer, keep: Sequence[str]) -> Any:
    """Return the answers for a DataFrame of pandas, whose index they get."""
    import pandas as pd

    taken = [name for name in frame.columns if name in scorer.datatypes]
    rows = pa.Table.from_pandas(frame[taken], preserve_index=False)
    answers = scorer.score_table(rows).to_pandas()
    answers.index = frame.index
    return pd.concat([frame[list(keep)], answers], axis=1) if keep else answers
