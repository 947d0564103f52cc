"""`forwardpass predict` of a folder of Parquet files: partitions, errors, stops and changes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.command import Finished, Serving, environment, run_here, serving

from forwardpass.models import Categorical, Dense, Input, Network, Output, publish

FILES = (
    "year=2025/month=12/part-0.parquet",
    "year=2026/month=01/part-0.parquet",
    "year=2026/month=01/part-1.snappy.parquet",
)
ROWS = 50
OPTIONS = ("--input", "rows", "--output", "answers", "--rows-per-call", "7", "--in-flight", "2")

KILLED = """
import os, signal, sys
from pathlib import Path
import grpc
from forwardpass.cli.calling.predict import Job
from forwardpass.cli.calling.predict_folder import predict_folder
from forwardpass.client import Client

class Killed(grpc.UnaryUnaryClientInterceptor):
    calls = 0
    def intercept_unary_unary(self, continuation, details, request):
        self.calls += details.method.endswith("/ModelInfer")
        if self.calls > int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return continuation(details, request)

job = Job(model="adder", input_file=Path("rows"), output_file=Path("answers"), keep=["id"],
          rows_per_call=7, in_flight=2)
with Client(sys.argv[1], interceptors=[Killed()]) as client:
    predict_folder(client, job)
"""


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the rows of FILES, beside what engines leave there, too."""
    for place, name in enumerate(FILES):
        x = np.arange(ROWS, dtype=np.float32) + 1000 * place
        ids = pa.array([f"{place}/{row}" for row in range(ROWS)])
        write(tmp_path / "rows" / name, id=ids, b=x, a=x / 2)
    (tmp_path / "rows" / "_SUCCESS").touch()
    (tmp_path / "rows" / FILES[0]).with_name(".part-0.parquet.crc").touch()
    (tmp_path / "rows" / "_temporary").mkdir()
    write(tmp_path / "rows" / "_temporary" / "part-0.parquet", a=[1.0])
    return tmp_path


def predict(target: str, folder: Path, *options: str, model: str = "adder") -> Finished:
    return run_here("predict", model, "--target", target, *OPTIONS, *options, cwd=folder)


def answers(folder: Path) -> dict[str, bytes]:
    """The files of answers by name, with their bytes."""
    return {
        path.relative_to(folder / "answers").as_posix(): path.read_bytes()
        for path in sorted((folder / "answers").rglob("*.parquet"))
        if not any(part.startswith(".") for part in path.parts)
    }


def test_each_file_gets_a_file_of_answers_in_the_same_partition(
    server: Serving, folder: Path
) -> None:
    assert predict(server.target, folder, "--keep", "id") == Finished(0, "", "")
    assert tuple(answers(folder)) == FILES
    assert (folder / "answers" / "_SUCCESS").exists()
    table = ds.dataset(folder / "answers", partitioning="hive").to_table()
    assert len(table) == len(FILES) * ROWS
    found = {row["id"]: row for row in table.to_pylist()}
    assert found["2/4"] == {
        "id": "2/4",
        "y.a + 2b": 1002 + 2 * 2004,
        "y.a - b": 1002 - 2004,
        "sum": 1002 + 2004,
        "year": 2026,
        "month": 1,
    }


def test_another_format_and_columns_with_types(server: Serving, folder: Path) -> None:
    path = folder / "rows" / FILES[0]
    table = pq.read_table(path, partitioning=None)
    days = pa.array([None] * ROWS, pa.date32())
    pq.write_table(table.append_column("day", days), path)
    for name in FILES[1:]:
        (folder / "rows" / name).unlink()
    assert predict(server.target, folder, "--keep", "day").code == 0
    kept = pq.read_schema(folder / "answers" / FILES[0]).field("day")
    # Not a type by what the first rows happen to hold: files of a data set have to agree.
    assert kept.type == pa.date32()
    options = ("--output-format", "csv", "--overwrite", "--select", "sum")
    assert predict(server.target, folder, *options) == Finished(0, "", "")
    # Those of the earlier run are replaced as a whole.
    assert not answers(folder)
    lines = (folder / "answers" / FILES[0]).with_suffix(".csv").read_text().splitlines()
    assert lines[:3] == ["sum", "0.0", "1.5"]


def test_partitions_are_features(tmp_path: Path) -> None:
    network = Network.define(
        [
            Input(2, "x", features=("month", "a")),
            Categorical("country", ("DE", "a/b")),
        ],
        [
            Dense("y", 1, "identity", reads=("x", "country"), W=[[100, 1, 10_000, 20_000]]),
        ],
        [Output("y", "y")],
        name="placed",
    )
    publish(network, tmp_path / "models")
    write(tmp_path / "rows" / "country=DE" / "month=01" / "x.parquet", a=[1.0, 2.0])
    write(tmp_path / "rows" / "country=a%2Fb" / "month=12" / "x.parquet", a=[3.0])
    with serving(tmp_path / "models", "--port", "0") as server:
        assert predict(server.target, tmp_path, model="placed") == Finished(0, "", "")
        found = [pq.read_table(tmp_path / "answers" / name)["y"] for name in answers(tmp_path)]
        assert [column.to_pylist() for column in found] == [[10101, 10102], [21203]]
        assert (
            "in the names of the folders"
            in (
                predict(server.target, tmp_path, "--keep", "month", "--output", "b", model="placed")
            ).stderr
        )
        for odd, reason in (
            ("month=May", "folder of column 'month': expected a number, got 'May'"),
            ("month=__HIVE_DEFAULT_PARTITION__", "row 1, column 'month': expected a number, got"),
            ("month=1/month=2", "expected one folder for column 'month', got two"),
        ):
            path = tmp_path / "rows" / "country=FR" / odd / "x.parquet"
            write(path, a=[3.0])
            error = predict(server.target, tmp_path, "--resume", model="placed").stderr
            assert f"{path.relative_to(tmp_path)}: {reason}" in error
            path.unlink()
        write(tmp_path / "rows" / "country=FR" / "month=1" / "x.parquet", a=[3.0])
        error = predict(server.target, tmp_path, "--resume", model="placed").stderr
        assert "x.parquet: row 1, column 'country': expected" in error


@pytest.mark.parametrize("calls", [3, 8, 23])
def test_a_killed_run_is_continued_to_the_same_bytes(
    server: Serving, folder: Path, calls: int
) -> None:
    assert predict(server.target, folder, "--keep", "id").code == 0
    uninterrupted = answers(folder)
    (folder / "answers").rename(folder / "uninterrupted")
    program = [sys.executable, "-c", KILLED, server.target, str(calls)]
    done = subprocess.run(program, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert not (folder / "answers" / "_SUCCESS").exists()
    before = {name: (folder / "answers" / name).stat().st_mtime_ns for name in answers(folder)}
    assert len(before) == calls // 8
    error = predict(server.target, folder, "--keep", "id").error
    assert error.startswith("answers: an earlier run stopped here; add --resume")
    assert predict(server.target, folder, "--keep", "id", "--resume") == Finished(0, "", "")
    assert answers(folder) == uninterrupted
    # Those that were whole were left alone, and nothing else is left.
    for name, written in before.items():
        assert (folder / "answers" / name).stat().st_mtime_ns == written
    assert not list((folder / "answers").rglob("*.partial*"))


def test_a_record_that_is_torn_costs_one_file(server: Serving, folder: Path) -> None:
    assert predict(server.target, folder).code == 0
    whole = answers(folder)
    record = folder / "answers" / "_forwardpass.jsonl"
    record.write_bytes(record.read_bytes()[:-9])
    (folder / "answers" / "_SUCCESS").unlink()
    assert predict(server.target, folder, "--resume") == Finished(0, "", "")
    assert answers(folder) == whole
    record.write_bytes(record.read_bytes().replace(b'"rows"', b'"rosw"', 1))
    assert "_forwardpass.jsonl: damaged" in predict(server.target, folder, "--resume").error


def test_a_run_that_has_finished_answers_only_what_came_since(
    server: Serving, folder: Path
) -> None:
    assert predict(server.target, folder).code == 0
    # No server is needed to see that.
    again = predict("127.0.0.1:1", folder, "--resume")
    assert (again.code, again.stdout) == (0, "")
    assert "answers is whole: it has the answers to all 3 files of rows" in again.stderr
    assert predict(server.target, folder).error.startswith("answers has files already; --over")
    before = answers(folder)
    new = "year=2024/month=01/x.parquet"
    write(folder / "rows" / new, a=[1.0], b=[2.0])
    assert predict(server.target, folder, "--resume") == Finished(0, "", "")
    assert answers(folder) == before | {new: answers(folder)[new]}
    other = predict(server.target, folder, "--resume", "--select", "sum")
    # Whole, and nothing asks the model: as for a single file.
    assert "for other options or another model, use --overwrite" in other.stderr
    (folder / "answers" / new).unlink()
    error = predict(server.target, folder, "--resume", "--select", "sum").error
    assert error.startswith("answers: begun with --select [], now ['sum']")


def change(path: Path) -> None:
    write(path, id=["new"], a=[0.0], b=[7.0])


@pytest.mark.parametrize(
    ("act", "said", "answered"),
    [(change, "have changed", 3), (Path.unlink, "are not there any more", 2)],
    ids=["changed", "deleted"],
)
def test_rows_that_changed_since_are_never_mixed_in_silence(
    server: Serving, folder: Path, act: Callable[[Path], None], said: str, answered: int
) -> None:
    assert predict(server.target, folder).code == 0
    before = answers(folder)
    act(folder / "rows" / FILES[1])
    error = predict(server.target, folder, "--resume").error
    assert error.startswith(f"answers/{FILES[1]}: its rows {said} since it was written")
    assert answers(folder) == before
    assert predict(server.target, folder, "--resume", "--overwrite") == Finished(0, "", "")
    after = answers(folder)
    assert len(after) == answered
    assert {name for name in after if after[name] == before[name]} == {FILES[0], FILES[2]}


def test_another_model_is_never_mixed_in(folder: Path, tmp_path: Path) -> None:
    def published(weight: float, version: int) -> None:
        layers = [Dense("y", activation="identity", W=[[weight, 1]])]
        network = Network.define(
            Input(2, features=("a", "b")), layers, [Output("y", "y")], name="m"
        )
        publish(network, tmp_path / "models", version=version, overwrite=True)

    published(1, 1)
    bad = folder / "rows" / FILES[1]
    table = pq.read_table(bad, partitioning=None)
    holes = pa.array([None if row == 30 else float(row) for row in range(ROWS)])
    pq.write_table(table.set_column(2, "a", holes), bad)
    with serving(tmp_path / "models", "--port", "0") as server:
        stopped = predict(server.target, folder, model="m")
        hint, error = stopped.stderr.splitlines()
        assert hint == "1 of 3 files are answered in answers; continue with --resume"
        assert error.startswith(f"error: rows/{FILES[1]}: row 31, column 'a': expected a number")
        pq.write_table(table, bad)
    published(2, 2)
    with serving(tmp_path / "models", "--port", "0") as server:
        # The file begun has rows of what was there before.
        error = predict(server.target, folder, "--resume", model="m").stderr
        assert ".part-0.parquet.partial: begun with --input" in error
        for partial in (folder / "answers").rglob(".*.partial*"):
            partial.unlink()
        assert predict(server.target, folder, "--resume", model="m").code == 0
        # By version 1, although there is a later one.
        for name in FILES:
            rows = pq.read_table(folder / "rows" / name, partitioning=None)
            got = pq.read_table(folder / "answers" / name, partitioning=None)["y"].to_numpy()
            np.testing.assert_array_equal(got, rows["a"].to_numpy() + rows["b"].to_numpy())
    published(3, 1)
    (folder / "answers" / FILES[0]).unlink()
    with serving(tmp_path / "models", "--port", "0") as server:
        error = predict(server.target, folder, "--resume", model="m").error
        assert error.startswith("answers: begun with the model's metadata '")
        assert predict(server.target, folder, "--overwrite", model="m") == Finished(0, "", "")
    assert tuple(answers(folder)) == FILES


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--output", "-"), "expected a folder for the answers to a folder, got stdout"),
        (("--output", "rows/answers"), "answers would be among the rows of --input"),
        (("--output", "."), "answers would be among the rows of --input"),
        (("--output", "there/answers"), "there is no directory 'there'; make it first"),
        (("--input-format", "csv"), "expected parquet for a folder of rows, got 'csv'"),
        (("--input", "empty"), "empty: expected .parquet files in it or in folders below, got"),
        (("--input", "odd"), "odd/x.csv: expected only .parquet files in a folder of rows"),
        (("--input", "linked"), "linked/more: expected a folder, got a link to one"),
        (("--output", "kept"), "kept has files already; --overwrite replaces the answers of an"),
        (("--output", "kept", "--resume"), "kept has files already"),
        (("--output", "kept", "--overwrite"), "kept/mine: expected only answers to files of"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    server: Serving, folder: Path, options: tuple[str, ...], error: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd" / "x.csv").touch()
    (folder / "linked").mkdir()
    os.symlink(folder / "rows", folder / "linked" / "more")
    (folder / "kept").mkdir()
    (folder / "kept" / "mine").touch()
    before = sorted(path.as_posix() for path in folder.rglob("*"))
    done = predict(server.target, folder, *options)
    assert done.code != 0
    assert error in done.error
    assert sorted(path.as_posix() for path in folder.rglob("*")) == before


def test_a_failure_before_the_first_answer_leaves_nothing(server: Serving, folder: Path) -> None:
    assert predict(server.target, folder, model="pair").code == 1
    assert predict("127.0.0.1:1", folder, "--retries", "0").code == 1
    assert not (folder / "answers").exists()
