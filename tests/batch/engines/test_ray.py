"""A model in Ray Data."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from batch.rows import ANSWERS, Expected, pieces

from forwardpass.batch import ray_udf

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """Two processes, in this machine's memory but for 200 MB."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2e8, logging_level="ERROR")
    yield
    ray.shutdown()


def collected(dataset: Any) -> pa.Table:
    return pa.concat_tables([each for each in ray.get(dataset.to_arrow_refs()) if len(each)])


def test_it_gives_the_bits_of_load_although_a_worker_is_killed(
    file: Path, rows: pa.Table, expected: Expected, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    score = ray_udf(file, keep=["id"])

    def score_or_die(table: pa.Table) -> pa.Table:
        if len(table) and table["id"][0].as_py() > 50_000 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return score(table)

    dataset = ray.data.from_arrow(pieces(rows, 11))
    answers = dataset.map_batches(score_or_die, batch_format="pyarrow", batch_size=None)
    expected.check(collected(answers))
    assert killed.exists()


def test_null_is_refused_and_a_schema_is_given(file: Path, rows: pa.Table) -> None:
    few = rows.slice(0, 10)
    dataset = ray.data.from_arrow(few).map_batches(ray_udf(file), batch_format="pyarrow")
    assert dataset.schema().names == [*ANSWERS]
    place = few.column_names.index("width")
    holes = few.set_column(place, "width", pa.nulls(10, pa.float32()))
    with pytest.raises(ray.exceptions.RayTaskError, match="'width': expected a value everywhere"):
        ray.data.from_arrow(holes).map_batches(ray_udf(file), batch_format="pyarrow").materialize()
