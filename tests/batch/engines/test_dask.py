"""A model over the parts of Dask's collections."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from batch.rows import ANSWERS, FEATURES, Expected

from forwardpass.batch import Scorer, dask_array, dask_frame
from forwardpass.client import InvalidInputError, load

dd = pytest.importorskip("dask.dataframe")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def table(frame: Any) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def test_it_gives_the_bits_of_load_although_a_worker_is_killed(
    cluster: Any, file: Path, rows: pa.Table, expected: Expected
) -> None:
    frame = dd.from_pandas(rows.to_pandas(), npartitions=23).shuffle("id")
    answers = dask_frame(frame, file, keep=["id"])
    future = cluster.compute(answers)
    first, _ = cluster.run(os.getpid).values()
    os.kill(first, signal.SIGKILL)
    expected.check(table(future.result(timeout=100)))


def test_meta_is_known_before_it_runs(file: Path, rows: pa.Table) -> None:
    pandas = rows.slice(0, 10).to_pandas().set_index("id")
    answers = dask_frame(dd.from_pandas(pandas, npartitions=2), file)
    computed = answers.compute(scheduler="synchronous")
    assert list(answers.columns) == [*ANSWERS]
    assert answers.dtypes.to_dict() == computed.dtypes.to_dict()
    assert computed.index.equals(pandas.index)


def test_what_pandas_counts_as_missing_is_refused(file: Path, rows: pa.Table) -> None:
    pandas = rows.slice(0, 10).to_pandas()
    pandas.loc[7, "width"] = np.nan
    frame = dd.from_pandas(pandas, npartitions=1)
    with pytest.raises(InvalidInputError, match=r"'width': expected a value.*row 7"):
        dask_frame(frame, file).compute(scheduler="synchronous")
    sent = dask_frame(frame, Scorer(file, missing="nan")).compute(scheduler="synchronous")
    assert np.flatnonzero(np.isnan(sent["risk.low"])).tolist() == [7]
    with pytest.raises(ValueError, match="keep: expected names"):
        dask_frame(frame, file, keep=["weight"])


def test_arrays_get_the_bits_of_load(file: Path, rows: pa.Table) -> None:
    x = np.column_stack([rows[name].to_numpy() for name in FEATURES])
    answers = dask_array(da.from_array(x, chunks=(9_001, 3)), file, output="risk")
    assert (answers.shape, answers.dtype) == ((100_000, 2), np.float32)
    want = load(file).predict("plants", x)["risk"]
    assert answers.compute(scheduler="threads").tobytes() == want.tobytes()
    with pytest.raises(ValueError, match="expected one of risk, height, got None"):
        dask_array(da.from_array(x), file)
    with pytest.raises(ValueError, match=r"expected an array \[k, 4\], got \[100000, 3\]"):
        dask_array(da.from_array(x[:, 1:]), file, output="risk")
