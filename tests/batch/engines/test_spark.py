"""A model in Spark, whose executors are processes."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from batch.rows import ANSWERS, FEATURES, Expected
from pyarrow import parquet

from forwardpass.batch import Scorer, spark_map, spark_udf

pyspark = pytest.importorskip("pyspark")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """Two executors beside the driver."""
    from pyspark.sql import SparkSession

    # Executors look for a `python3` of their own otherwise.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local-cluster[2,1,768]")
    for name, value in {
        "spark.ui.enabled": "false",
        # One for the worker that is killed.
        "spark.task.maxFailures": "2",
        "spark.driver.memory": "768m",
        "spark.executor.memory": "768m",
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "3001",
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def frame(spark: Any, rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    parquet.write_table(rows, path)
    return spark.read.parquet(str(path)).repartition(7)


def test_arrow_batches_get_the_bits_of_load_although_a_worker_is_killed(
    frame: Any, file: Path, expected: Expected, tmp_path: Path
) -> None:
    killed = str(tmp_path / "killed")

    def die_once(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch
            if not os.path.exists(killed):
                open(killed, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)

    answers = spark_map(frame.mapInArrow(die_once, frame.schema), file, keep=["id"])
    expected.check(answers.toArrow())
    assert os.path.exists(killed)


def test_a_function_of_columns_gives_the_bits_of_load(
    frame: Any, file: Path, expected: Expected
) -> None:
    score = spark_udf(file)
    answers = frame.select("id", score().alias("answer")).select("id", "answer.*")
    expected.check(answers.toArrow())
    few = frame.limit(1).select(score() == score(*(frame[f"`{name}`"] for name in FEATURES)))
    assert [tuple(row) for row in few.collect()] == [(True,)]


def test_null_is_refused_and_nan_where_spark_makes_one_of_the_other(frame: Any, file: Path) -> None:
    from pyspark.errors import PythonException
    from pyspark.sql.functions import lit

    few = frame.limit(3)
    holes = few.withColumn("width", lit(None).cast("float"))
    values = few.withColumn("width", lit(float("nan")).cast("float"))
    refused = "'width': expected a value everywhere"
    for answers in (
        spark_map(holes, file),
        holes.select(spark_udf(file)()),
        values.select(spark_udf(file)()),
    ):
        with pytest.raises(PythonException, match=refused):
            answers.collect()
    for row in spark_map(values, file).collect():
        assert np.isnan(row["risk.low"])
        assert row["risk"] is None
    lenient = spark_udf(Scorer(file, missing="nan"))().alias("a")
    # Spark makes NULL of NaN on the way back, too.
    assert {tuple(row) for row in holes.select(lenient).select("a.*").collect()} == {(None,) * 4}


def test_no_rows_give_no_answers(frame: Any, file: Path) -> None:
    none = frame.where("id < 0")
    assert spark_map(none, file).columns == [*ANSWERS]
    assert spark_map(none, file).collect() == []
    assert none.select(spark_udf(file)()).collect() == []


def test_columns_to_keep_are_checked_before_it_runs(frame: Any, file: Path) -> None:
    with pytest.raises(ValueError, match="keep: expected names"):
        spark_map(frame, file, keep=["weight"])
