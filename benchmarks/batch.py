"""What a row costs through `forwardpass.batch`, and what starting a run does, beside `load`.

Usage: python -m benchmarks.batch [--rows 500000] [--repeats 5] [--only ENGINE ...]

Engines that are not installed are left out: `pip install -e '.[polars,duckdb,dask,ray,spark]'` for
all, with Java for Spark. Costs are seconds of CPU, of this process and of all that it started; an
engine's own reading, moving and joining of rows is part of them.

Each engine scores `--rows` rows and four times as many. The difference is the marginal cost: what
each further row of a long job costs. What the smaller run took beyond that for its rows is the
start of a run: planning it and starting its tasks. The start of the engine itself, and of its first
workers, is in neither: a run that is not measured comes first. The last column leaves an engine's
own cost out: it is measured with a function that answers zeros at once. Every answer is compared
with that of `load`, bit for bit.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forwardpass.batch import Scorer
from forwardpass.client import load
from forwardpass.models import Dense, Input, Network, Output, publish

CHUNK = 4096
TIMES = 4
"""The rows of the longer run, in those of the shorter one."""
NETWORKS = {"30-64-32-2": (30, 64, 32, 2), "128-512-512-8": (128, 512, 512, 8)}

Run = Callable[[], tuple[NDArray[Any], NDArray[Any]]]
"""Scores all rows; returns their ids and the first column of their answers."""


class Cost(NamedTuple):
    """What runs of two lengths cost, in seconds of CPU."""

    row_s: float
    """A further row of a long run."""
    start_s: float
    """A run, before its first row."""

    @classmethod
    def between(cls, short_s: float, long_s: float, rows: int) -> "Cost":
        """Return that of runs of `rows` and of TIMES as many rows."""
        row_s = max((long_s - short_s) / ((TIMES - 1) * rows), 1e-12)
        return cls(row_s, short_s - row_s * rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="engines to measure")
    options = parser.parse_args()
    print(
        "| network | engine | us of CPU for a row | rows a second of a core | of `load`, Arrow "
        "| s of CPU to start a run | without the engine's own, of `load`, Arrow |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, sizes in NETWORKS.items():
        rows = max(CHUNK, options.rows * 30 // sizes[0])
        with tempfile.TemporaryDirectory() as folder:
            measure(name, sizes, rows, Path(folder), options.repeats, options.only)


def measure(
    name: str,
    sizes: tuple[int, ...],
    rows: int,
    folder: Path,
    repeats: int,
    only: list[str] | None,
) -> None:
    """Print a line for each engine with one network."""
    first, *hidden, last = sizes
    features = [f"f{place}" for place in range(first)]
    layers = [Dense(f"hidden {place}", units) for place, units in enumerate(hidden)]
    network = Network.define(
        Input(first, features=features),
        [*layers, Dense("y", last, "softmax")],
        [Output("y", "y")],
        name="net",
    )
    path = publish(network, folder).path
    x = np.random.default_rng(0).standard_normal((TIMES * rows, first), np.float32)
    columns = dict(zip(features, x.T, strict=True))
    table = pa.table({"id": np.arange(len(x))} | columns)
    local = load(path)
    local.predict("net", x[:1])
    want = np.concatenate(
        [local.predict("net", x[at : at + CHUNK])["y"][:, 0] for at in range(0, len(x), CHUNK)]
    )

    @contextmanager
    def with_numpy(table: pa.Table, *_: Any) -> Iterator[Run]:
        def run() -> tuple[NDArray[Any], NDArray[Any]]:
            for at in range(0, len(table), CHUNK):
                local.predict("net", x[at : min(at + CHUNK, len(table))])
            return np.arange(len(table)), want[: len(table)]

        yield run

    @contextmanager
    def with_load(table: pa.Table, *_: Any) -> Iterator[Run]:
        given = table.drop_columns(["id"])

        def run() -> tuple[NDArray[Any], NDArray[Any]]:
            for at in range(0, len(table), CHUNK):
                local.predict("net", given.slice(at, CHUNK))
            return np.arange(len(table)), want[: len(table)]

        yield run

    def cost(opened: Any, scorer: Scorer, answers: NDArray[Any]) -> Cost:
        def seconds(some: pa.Table) -> float:
            with opened(some, scorer, folder) as run:
                return seconds_of(run, answers[: len(some)], repeats)

        return Cost.between(seconds(table.slice(0, rows)), seconds(table), rows)

    scorer, idle = Scorer(path, labels=False), Idle(path, labels=False)
    of_load = cost(with_load, scorer, want)
    line(name, "`load` of an Arrow table", of_load, of_load)
    line(name, "`load` of a NumPy array", cost(with_numpy, scorer, want), of_load)
    for engine, (module, opened) in ENGINES.items():
        if find_spec(module) is None or (only and engine not in only):
            continue
        alone = cost(opened, idle, np.zeros_like(want))
        line(name, f"`{engine}`", cost(opened, scorer, want), of_load, alone)


class Idle(Scorer):
    """Answers zeros, to measure what an engine costs without a model."""

    def _answered(self, rows: pa.RecordBatch, start: int) -> pa.RecordBatch:
        del start
        zeros = pa.array(np.zeros(len(rows), np.float32))
        return pa.record_batch([zeros] * len(self.schema), schema=self.schema)


def line(network: str, engine: str, of: Cost, of_load: Cost, idle: Cost | None = None) -> None:
    """Print a line of the table."""
    own = 0.0 if idle is None else idle.row_s
    print(
        f"| {network} | {engine} | {of.row_s * 1e6:.2f} | {1 / of.row_s:,.0f} "
        f"| {of_load.row_s / of.row_s:.2f} | {of.start_s:.2f} "
        f"| {of_load.row_s / max(of.row_s - own, 1e-12):.2f} |",
        flush=True,
    )


def seconds_of(run: Run, want: NDArray[Any], repeats: int) -> float:
    """Return the seconds of CPU of a run, after one that warms up and is checked."""
    ids, answers = run()
    got = np.empty(len(want), want.dtype)
    got[ids] = answers
    if len(ids) != len(want) or got.tobytes() != want.tobytes():
        sys.exit("an engine's answers are not those of `load`")
    start = cpu_s()
    for _ in range(repeats):
        run()
    return (cpu_s() - start) / repeats


def cpu_s() -> float:
    """Return the seconds of CPU of this process and of all its descendants.

    Those of the descendants come in ticks, of a hundredth of a second.
    """
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name, in parentheses, may have spaces.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = sum(map(int, fields[11:15]))
    here = os.getpid()
    ours, size = {here}, 0
    while len(ours) != size:
        size = len(ours)
        ours |= {child for child, parent in parents.items() if parent in ours}
    ticks = sum(spent[each] for each in ours - {here})
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _column(table: pa.Table) -> tuple[NDArray[Any], NDArray[Any]]:
    return table["id"].to_numpy(), table["y[0]"].to_numpy()


@contextmanager
def with_arrow(table: pa.Table, scorer: Scorer, _: Path) -> Iterator[Run]:
    """`arrow_map` of batches of CHUNK rows."""
    from forwardpass.batch import arrow_map

    yield lambda: _column(arrow_map(table.to_reader(CHUNK), scorer, keep=["id"]).read_all())


@contextmanager
def with_polars(table: pa.Table, scorer: Scorer, _: Path) -> Iterator[Run]:
    """`polars_expr` in the streaming engine."""
    import polars as pl

    from forwardpass.batch import polars_expr

    frame: Any = pl.from_arrow(table)

    def run() -> tuple[NDArray[Any], NDArray[Any]]:
        lazy = frame.lazy().select("id", polars_expr(scorer).alias("a")).unnest("a")
        found = lazy.collect(engine="streaming")
        return found["id"].to_numpy(), found["y[0]"].to_numpy()

    yield run


@contextmanager
def with_duckdb(table: pa.Table, scorer: Scorer, _: Path) -> Iterator[Run]:
    """`duckdb_function` over a table in memory, by one thread."""
    import duckdb

    from forwardpass.batch import duckdb_function

    with duckdb.connect() as connection:
        connection.execute("SET threads TO 1")
        connection.register("given", table)
        connection.execute("CREATE TABLE rows_given AS FROM given")
        call = duckdb_function(connection, scorer)
        query = f"SELECT id, unnest({call}) FROM rows_given"
        yield lambda: _column(pa.RecordBatchReader.from_stream(connection.sql(query)).read_all())


@contextmanager
def with_dask(table: pa.Table, scorer: Scorer, _: Path) -> Iterator[Run]:
    """`dask_frame` over 8 partitions, in this thread."""
    import dask.dataframe as dd

    from forwardpass.batch import dask_frame

    frame = dask_frame(dd.from_pandas(table.to_pandas(), npartitions=8), scorer, keep=["id"])

    def run() -> tuple[NDArray[Any], NDArray[Any]]:
        found = frame.compute(scheduler="synchronous")
        return found["id"].to_numpy(), found["y[0]"].to_numpy()

    yield run


@contextmanager
def with_ray(table: pa.Table, scorer: Scorer, _: Path) -> Iterator[Run]:
    """`ray_udf` over 8 blocks, in tasks of one CPU."""
    import ray

    from forwardpass.batch import ray_udf

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=1e9, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = -(-len(table) // 8)
    dataset = ray.data.from_arrow([table.slice(at, size) for at in range(0, len(table), size)])

    def run() -> tuple[NDArray[Any], NDArray[Any]]:
        scored = dataset.map_batches(
            ray_udf(scorer, keep=["id"]), batch_format="pyarrow", batch_size=None
        )
        return _column(pa.concat_tables(ray.get(scored.to_arrow_refs())))

    yield run
    ray.shutdown()


@contextmanager
def _spark(table: pa.Table, folder: Path) -> Iterator[Any]:
    from pyarrow import parquet
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.log.level", "OFF").config("spark.driver.memory", "2g")
    session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    parquet.write_table(table, folder / "rows.parquet", row_group_size=len(table) // 8)
    frame = session.read.parquet(str(folder / "rows.parquet")).cache()
    frame.count()
    yield frame
    session.stop()


@contextmanager
def with_spark_map(table: pa.Table, scorer: Scorer, folder: Path) -> Iterator[Run]:
    """`spark_map` over rows that Spark has in memory."""
    from forwardpass.batch import spark_map

    with _spark(table, folder) as frame:
        yield lambda: _column(spark_map(frame, scorer, keep=["id"]).toArrow())


@contextmanager
def with_spark_udf(table: pa.Table, scorer: Scorer, folder: Path) -> Iterator[Run]:
    """`spark_udf` over rows that Spark has in memory."""
    from forwardpass.batch import spark_udf

    with _spark(table, folder) as frame:
        answer = spark_udf(scorer)().alias("a")
        yield lambda: _column(frame.select("id", answer).select("id", "a.*").toArrow())


ENGINES = {
    "arrow_map": ("pyarrow", with_arrow),
    "polars_expr": ("polars", with_polars),
    "duckdb_function": ("duckdb", with_duckdb),
    "dask_frame": ("dask", with_dask),
    "ray_udf": ("ray", with_ray),
    "spark_map": ("pyspark", with_spark_map),
    "spark_udf": ("pyspark", with_spark_udf),
}
"""The module that an engine needs, and what opens it, by the function of ours."""


if __name__ == "__main__":
    main()
