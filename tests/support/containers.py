"""Rows in every kind of container that a caller may pass."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray


def by_position(x: NDArray[np.float32]) -> Iterator[tuple[str, Any]]:
    """Yield the same rows, whose columns are in the model's order."""
    yield "an array", x
    yield "an array of float64", x.astype(np.float64)
    yield "an array in Fortran's order", np.asfortranarray(x)
    yield "every other column of an array", np.repeat(x, 2, axis=1)[:, ::2]
    yield "lists", x.tolist()
    yield "tuples", tuple(map(tuple, x.tolist()))
    yield "a DataFrame without names", pd.DataFrame(x)


def by_name(
    x: NDArray[np.float32], features: Sequence[str], order: Sequence[int]
) -> Iterator[tuple[str, Any]]:
    """Yield the same rows, whose columns are named, in another order."""
    columns = {features[k]: x[:, k] for k in order}
    yield "a dict of arrays", columns
    yield "a dict of lists", {name: column.tolist() for name, column in columns.items()}
    yield "a DataFrame of pandas", pd.DataFrame(columns)
    yield "a DataFrame of pandas with an index", pd.DataFrame(columns, range(7, 7 + len(x)))
    yield "a DataFrame of polars", pl.DataFrame(columns)
    yield "one array as a DataFrame", pd.DataFrame(x, columns=list(features))[list(columns)]
    yield "an Arrow table", pa.table(columns)
    yield "a batch of Arrow", pa.RecordBatch.from_pydict(columns)
    yield "records", pd.DataFrame(columns).to_dict("records")
    dtype = [(name, np.float32) for name in columns]
    yield "a structured array", np.array(list(zip(*columns.values(), strict=True)), dtype)
