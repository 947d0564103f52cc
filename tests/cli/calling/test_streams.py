"""`forwardpass predict` over many chunks: formats, pipes, and going on after a stop."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command import Finished, Serving, environment, run_here, started

ROWS = 1000
SMALL = ("--rows-per-call", "7")
"""So that there are many calls."""
ENDINGS = ("csv", "jsonl", "npy", "parquet")


@pytest.fixture
def x(tmp_path: Path) -> np.ndarray:
    """Rows of the adder, as a file of each format in the folder; b stands before a."""
    x = np.random.default_rng(0).integers(-50, 50, (ROWS, 2)).astype(np.float32)
    a, b = x.T
    columns = {"id": np.arange(ROWS), "b": b, "a": a}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=300)
    with (tmp_path / "x.jsonl").open("w") as jsonl, (tmp_path / "x.csv").open("w") as csv:
        csv.write("id,b,a\n")
        for row in table.to_pylist():
            jsonl.write(json.dumps(row) + "\n")
            csv.write("{id},{b},{a}\n".format(**row))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "columnwise.npy", np.asfortranarray(x))
    return x


def predict(server: Serving, tmp_path: Path, *options: str) -> Finished:
    return run_here("predict", "adder", "--target", server.target, *options, cwd=tmp_path)


def read(path: Path) -> list[list[float]]:
    """The numbers of an output file, row by row."""
    match path.suffix:
        case ".npy":
            array: list[list[float]] = np.load(path).tolist()
            return array
        case ".csv":
            lines = path.read_text().splitlines()[1:]
            return [[float(cell) for cell in line.split(",")] for line in lines]
        case ".jsonl":
            lines = path.read_text().splitlines()
            rows = map(json.loads, lines)
        case _:
            rows = pq.read_table(path).to_pylist()
    # What was kept of a CSV file is text.
    return [[float(cell) for cell in row.values()] for row in rows]


@pytest.mark.parametrize("source", [*(f"x.{ending}" for ending in ENDINGS), "columnwise.npy"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_answers_in_order(
    server: Serving, tmp_path: Path, x: np.ndarray, source: str, ending: str
) -> None:
    keep = () if "npy" in source + ending else ("--keep", "id")
    output = f"y.{ending}"
    options = ("--input", source, "--output", output, "--select", "y", *keep, *SMALL)
    assert predict(server, tmp_path, *options) == Finished(0, "", "")
    expected = np.stack([x[:, 0] + 2 * x[:, 1], x[:, 0] - x[:, 1]], axis=1)
    if keep:
        expected = np.concatenate([np.arange(ROWS)[:, np.newaxis], expected], axis=1)
    assert read(tmp_path / output) == expected.tolist()
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize(
    ("kind", "source"), [("csv", "x.csv"), ("jsonl", "x.jsonl"), ("npy", "x.npy")]
)
def test_rows_of_a_pipe_are_answered_on_stdout(
    server: Serving, tmp_path: Path, x: np.ndarray, kind: str, source: str
) -> None:
    options = ("--input", "-", "--input-format", kind, "--output", "-", "--output-format", "jsonl")
    with started(
        *("predict", "adder", "--target", server.target, *options, *SMALL),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        out, err = process.communicate((tmp_path / source).read_bytes(), timeout=60)
    assert (process.returncode, err) == (0, b"")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["sum"] for row in rows] == x.sum(axis=1).tolist()


def test_json_lines_may_be_arrays_in_the_models_order(server: Serving, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("[1, 10]\n\n[1.5, 1]\n")
    done = predict(server, tmp_path, "--input", "x.jsonl", "--select", "sum")
    assert done == Finished(0, "sum\n11.0\n2.5\n", "")


def test_a_terminal_is_shown_how_far_it_is(server: Serving, tmp_path: Path, x: np.ndarray) -> None:
    ours, theirs = os.openpty()
    options = ("--input", "x.csv", "--output", "y.csv", *SMALL)
    with started(
        *("predict", "adder", "--target", server.target, *options),
        cwd=tmp_path,
        env=environment({"TERM": "xterm"}),
        stderr=theirs,
        stdout=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        shown = b""
        while process.poll() is None or shown == b"":
            try:
                shown += os.read(ours, 2**16)
            except OSError:  # the other end is closed
                break
        rest: tuple[Any, Any] = process.communicate(timeout=60)
        assert rest == (b"", None)
    os.close(ours)
    assert process.returncode == 0
    assert b"adder" in shown
    assert b" rows" in shown


@pytest.mark.parametrize("ending", ["csv", "jsonl", "npy", "parquet"])
def test_a_file_without_rows_gives_a_file_without_rows(
    server: Serving, tmp_path: Path, ending: str
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")
    options = ("--input", "x.csv", "--output", f"y.{ending}", "--select", "sum")
    assert predict(server, tmp_path, *options).code == 0
    assert read(tmp_path / f"y.{ending}") == []


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        (
            "x.csv",
            "a,b\n" + "1,2\n" * 20 + "1,?\n",
            "x.csv: line 22, column 'b': expected a number",
        ),
        ("x.jsonl", '{"a": 1, "b": 2}\n' * 9 + '{"a": 1}\n', "line 10: expected a value for 'b'"),
        ("x.jsonl", '{"a": 1, "b": 2}\n{"a": 1, "b": "x"}\n', "line 2, column 'b': expected a num"),
        (
            "x.jsonl",
            '{"a": 1, "b": 2}\n{"a": 1, "b": null}\n',
            "expected a number, got null; fill it in",
        ),
        ("x.jsonl", "[1, 2]\n[1]\n", "line 2: expected 2 values, got 1"),
        ("x.jsonl", "[1, 2]\n{}\n", "line 2: expected an array as in the first line, got dict"),
        ("x.jsonl", "[1, 2]\nno\n", "line 2: not JSON"),
        ("x.jsonl", '{"a": 1}\n', "got 0 named 'b'; the file has 'a'"),
        ("x.parquet", "a,b", "x.parquet: not a Parquet file"),
    ],
)
def test_errors_name_file_row_and_column(
    server: Serving, tmp_path: Path, name: str, text: str, error: str
) -> None:
    (tmp_path / name).write_text(text)
    done = predict(server, tmp_path, "--input", name, *SMALL)
    assert done.code == 1
    assert error in done.error


def test_errors_of_parquet_name_row_and_column(server: Serving, tmp_path: Path) -> None:
    def error(**columns: list[object]) -> str:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=3)
        return predict(server, tmp_path, "--input", "x.parquet", *SMALL).error

    numbers: list[object] = list(range(20))
    holes: list[object] = [*range(15), None, *range(4)]
    assert "x.parquet: row 16, column 'b': expected a number, got null" in error(a=numbers, b=holes)
    texts: list[object] = [str(number) for number in numbers]
    assert "x.parquet: column 'b': expected numbers, got string" in error(a=numbers, b=texts)
    assert "expected one column for each of the model's 2 features, got 0 named 'b'" in error(
        a=numbers
    )


def test_an_array_that_is_cut_off_is_reported(
    server: Serving, tmp_path: Path, x: np.ndarray
) -> None:
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-10])
    done = predict(server, tmp_path, "--input", "x.npy", "--output", "y.npy", "--select", "sum")
    assert "expected 1000 rows, as its header says, got 998; the file is cut off" in done.error


def test_what_cannot_be_kept_or_resumed_is_reported(
    server: Serving, tmp_path: Path, x: np.ndarray
) -> None:
    for options, error in (
        (("--input", "x.npy", "--keep", "id"), "--keep: expected a file whose columns have names"),
        (("--input", "x.csv", "--keep", "name"), "one column for --keep, got 0 named 'name'"),
        (("--input", "x.csv", "--keep", "id", "--output", "y.npy", "--select", "y"), "--keep: exp"),
        (("--input", "x.csv", "--resume"), "--resume: expected --output with a file"),
        (("--input", "-", "--input-format", "parquet"), "as Parquet is read from its end"),
        (("--input", "x.csv", "--output-format", "npy"), "expected a file for npy, got stdout"),
    ):
        assert error in predict(server, tmp_path, *options).error


def test_rows_that_may_depend_on_one_another_are_not_cut(server: Serving, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5000, 1)))
    model = ("predict", "bytes", "--target", server.target, "--input", "x.npy")
    done = run_here(*model, cwd=tmp_path)
    assert "has not proven that its rows do not depend on one another" in done.error
    assert "--rows-per-call" in done.error


# Going on after a stop


@pytest.mark.parametrize("ending", ENDINGS)
def test_killed_in_the_middle_and_resumed_gives_the_identical_file(
    server: Serving, tmp_path: Path, x: np.ndarray, ending: str
) -> None:
    options: tuple[str, ...] = ("--input", "x.csv", "--select", "y")
    # The file does not depend on how many rows were called at a time.
    assert predict(server, tmp_path, *options, *SMALL, "--output", f"whole.{ending}").code == 0
    part, output = tmp_path / f"y.{ending}.partial", tmp_path / f"y.{ending}"
    options = (*options, "--rows-per-call", "1")
    command = ("predict", "adder", "--target", server.target, *options)
    # One call after the other: slow enough to be killed in the middle.
    with started(
        *command, "--in-flight", "1", "--output", output.name, cwd=tmp_path, env=environment()
    ) as process:
        deadline = time.monotonic() + 60
        while not rows(part) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert 0 < rows(part) < ROWS
    assert not output.exists()
    # What a process was about to write when it was killed.
    with part.open("ab") as file:
        file.write(b"1,2")
    again = predict(server, tmp_path, *options, "--output", output.name)
    assert f"{part.name}: an earlier run stopped here; add --resume" in again.error
    assert predict(server, tmp_path, *options, "--output", output.name, "--resume").code == 0
    assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not list(tmp_path.glob("*partial*"))


def rows(part: Path) -> int:
    about = part.with_name(f"{part.name}.json")
    count: int = json.loads(about.read_text())["rows"] if about.exists() else 0
    return count


@pytest.fixture
def stopped(server: Serving, tmp_path: Path) -> tuple[str, ...]:
    """The options of a run that stopped at a row that is no number."""
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n" * 40 + "1,?\n")
    options = ("--input", "x.csv", "--output", "y.csv", *SMALL, "--in-flight", "1")
    done = predict(server, tmp_path, *options)
    assert done.code == 1
    assert "35 rows are in y.csv.partial; continue with --resume" in done.stderr
    return options


def test_a_run_goes_on_only_with_what_it_was_begun_with(
    server: Serving, tmp_path: Path, stopped: tuple[str, ...]
) -> None:
    done = predict(server, tmp_path, *stopped, "--resume", "--select", "sum")
    assert "y.csv.partial: begun with --select [], now ['sum']" in done.error
    os.utime(tmp_path / "x.csv", ns=(1, 1))
    assert "begun with --input" in predict(server, tmp_path, *stopped, "--resume").error


def test_a_damaged_partial_file_is_reported(
    server: Serving, tmp_path: Path, stopped: tuple[str, ...]
) -> None:
    part = tmp_path / "y.csv.partial"
    part.write_bytes(part.read_bytes()[:50])
    done = predict(server, tmp_path, *stopped, "--resume")
    assert "does not belong to y.csv.partial, or is damaged; delete both" in done.error
    (tmp_path / "y.csv.partial.json").write_text("{")
    assert "or is damaged" in predict(server, tmp_path, *stopped, "--resume").error


def test_with_nothing_to_go_on_with_a_run_begins(
    server: Serving, tmp_path: Path, x: np.ndarray
) -> None:
    options = ("--input", "x.csv", "--output", "y.csv", "--resume")
    assert predict(server, tmp_path, *options).code == 0
    assert len(read(tmp_path / "y.csv")) == ROWS
