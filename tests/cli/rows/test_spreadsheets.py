"""CSV as spreadsheets of half the world write it, and what must not be read as a number."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command import Finished, Serving, run_here

Predict = Callable[..., Finished]

ADDED = "y.a + 2b,y.a - b,sum\n21.0,-9.0,11.0\n3.5,0.5,2.5\n"
"""The adder's answer to the rows (1, 10) and (1.5, 1)."""
SAID = "x.csv: read with {}; --sep and --decimal change that\n"


@pytest.fixture
def predict(server: Serving, tmp_path: Path) -> Predict:
    """Run `forwardpass predict adder` on a text, against the tests' server."""

    def predict(text: str | bytes, *options: str, name: str = "x.csv") -> Finished:
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / name).write_bytes(data)
        env = {"FORWARDPASS_TARGET": server.target}
        return run_here("predict", "adder", "--input", name, *options, cwd=tmp_path, env=env)

    return predict


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;b\n1;10\n1,5;1\n", "';' between columns, a decimal comma"),
        ("\ufeffa;b\r\n1;10\r\n1,5;1\r\n", "';' between columns, a decimal comma"),
        ("b;id;a\n10;7;1\n1;x, y;1,5\n", "';' between columns, a decimal comma"),
        ("1;10\n1,5;1\n", "';' between columns, a decimal comma"),
        ("1,0;10,0\n1,5;1,0\n", "';' between columns, a decimal comma"),
        ("a;b\n1;10\n1.5;1\n", "';' between columns, '.' as decimal mark"),
        ("a\tb\n1\t10\n1.5\t1\n", "a tab between columns, '.' as decimal mark"),
    ],
)
def test_a_spreadsheets_file_is_recognized_and_said(predict: Predict, text: str, said: str) -> None:
    assert predict(text) == Finished(0, ADDED, SAID.format(said))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a;b\n1;10\n1,5;1\n", ("--sep", ";", "--decimal", ",")),
        ("a|b\n1|10\n1,5|1\n", ("--sep", "|", "--decimal", ",")),
        ("a\tb\n1\t10\n1,5\t1\n", ("--sep", "tab", "--decimal", ",")),
        ('a,b\n"1","10"\n"1,5","1"\n', ("--decimal", ",")),
        ("a,b\n1,10\n1.5,1\n", ()),
        ("a,b,c;d\n1,10,0\n1.5,1,0\n", ()),
    ],
)  # fmt: skip
def test_what_is_given_or_usual_is_read_without_a_word(
    predict: Predict, text: str, options: tuple[str, ...]
) -> None:
    assert predict(text, *options) == Finished(0, ADDED, "")


def test_tsv_and_gz_are_read_by_their_endings(predict: Predict, tmp_path: Path) -> None:
    csv, tsv = "a,b\n1,10\n1.5,1\n", "a\tb\n1\t10\n1.5\t1\n"
    lines = "".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in ((1, 10), (1.5, 1)))
    np.save(tmp_path / "raw.npy", np.array([[1, 10], [1.5, 1]], np.float32))
    array = (tmp_path / "raw.npy").read_bytes()
    for name, data in (
        ("x.tsv", tsv.encode()),
        ("x.csv.gz", gzip.compress(csv.encode())),
        ("x.tsv.gz", gzip.compress(tsv.encode())),
        ("x.jsonl.gz", gzip.compress(lines.encode())),
        ("x.npy.gz", gzip.compress(array)),
    ):
        assert predict(data, name=name) == Finished(0, ADDED, ""), name


@pytest.mark.parametrize(
    "data",
    [b"a,b\n1,2\n", gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:-12]],
    # The time is in gzip's head: as an id it would differ from worker to worker.
    ids=["no gzip", "cut short"],
)
def test_what_is_no_whole_gz_is_reported(predict: Predict, data: bytes) -> None:
    done = predict(data, name="x.csv.gz")
    assert (done.code, "x.csv.gz: not a whole gzip file" in done.error) == (1, True)


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("a,b\n1,1e400\n", (), "line 2, column 'b': expected a number of magnitude up to 1.8e308"),
        ("a,b\n1,-1E400\n", (), "expected a number of magnitude up to 1.8e308, got '-1E400'"),
        ("a,b\n1,1_000\n", (), "line 2, column 'b': expected a number, got '1_000'"),
        ("a,b\n1,\u0661\n", (), "line 2, column 'b': expected a number, got '\u0661'"),
        ("a,b\n1,0x10\n", (), "expected a number, got '0x10'"),
        ('a,b\n1,"2,5"\n', (), "got '2,5'; pass --decimal , if it is a decimal mark"),
        ("a;b\n1,5;1\n1.5;1\n", (), "line 3, column 'a': expected a number with ',' as decimal"),
        ("a;b\n1,5;1.000,5\n", (), "column 'b': expected a number with ',' as decimal mark"),
        ("a\tb\n1,5\t1\n", (), "got '1,5'; pass --decimal , if it is a decimal mark"),
        (
            "a,b\n1,\n",
            (),
            "column 'b': expected a number, got ''; fill it in, or pass --missing nan",
        ),
        ("a,b\n1,NA\n", ("--missing", "nan"), "column 'b': expected a number, got 'NA'"),
        ("a,b\n1,NA\n", ("--na", "NA"), "column 'b': expected a number, got 'NA'; fill it in"),
        (b"\xff\xfea\x00,\x00b\x00", (), "not a CSV file in UTF-8"),
        ("a,b\n1,2\n", ("--sep", ";;"), "--sep: expected one character"),
        ("a,b\n1,2\n", ("--decimal", "x"), "--decimal: expected . or a comma, got 'x'"),
        ("a,b\n1,2\n", ("--missing", "drop"), "--missing: expected refuse or nan, got 'drop'"),
    ],
)
def test_what_is_no_number_is_refused_by_line_and_column(
    predict: Predict, text: str | bytes, options: tuple[str, ...], error: str
) -> None:
    done = predict(text, *options)
    assert (done.code > 0, done.stdout) == (True, "")
    assert error in done.stderr


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", b'{"a": 1, "b": 1e400}\n'),
        ("x.jsonl", b"[1, -1e400]\n"),
    ],
)
def test_no_number_of_json_becomes_infinite(predict: Predict, name: str, data: bytes) -> None:
    done = predict(data, name=name)
    assert "line 1: expected a number of magnitude up to 1.8e308, got" in done.stderr


def test_missing_values_are_refused_or_nan_in_every_format(
    predict: Predict, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"a": [1.0, None], "b": [10.0, 1.0]}), tmp_path / "raw.parquet")
    answer = "y.a + 2b,y.a - b,sum\n21.0,-9.0,11.0\nnan,nan,nan\n"
    for name, data, place in (
        ("x.csv", b"a,b\n1,10\n,1\n", "line 3, column 'a': expected a number, got ''"),
        ("x.tsv", b"a\tb\n1\t10\n \t1\n", "line 3, column 'a': expected a number, got ' '"),
        ("x.jsonl", b'{"a":1,"b":10}\n{"a":null,"b":1}\n', "line 2, column 'a': expected a number"),
        ("x.parquet", (tmp_path / "raw.parquet").read_bytes(), "row 2, column 'a': expected a num"),
    ):
        done = predict(data, name=name)
        assert (done.code, place in done.stderr) == (1, True), (name, done.stderr)
        assert "fill it in, or pass --missing nan" in done.stderr
        assert predict(data, "--missing", "nan", name=name).stdout == answer
    done = predict("a,b\n1,10\n?,1\n", "--na", "?", "--na", "-", "--missing", "nan")
    assert done == Finished(0, answer, "")
    # A NaN that is written as one is a value.
    assert predict("a,b\n1,10\nnan,1\n").stdout == answer


def test_rows_and_answers_that_are_there_are_not_destroyed(
    predict: Predict, tmp_path: Path
) -> None:
    text = "a,b\n1,10\n1.5,1\n"
    (tmp_path / "link.csv").symlink_to("x.csv")
    for output in ("x.csv", "./x.csv", "link.csv"):
        done = predict(text, "--output", output, "--overwrite")
        assert "would destroy the rows of --input; name another file" in done.error
        assert (tmp_path / "x.csv").read_text() == text
    done = predict(text, "--output", "y.csv", "--input-format", "csv", name="y.csv.partial")
    assert "would destroy the rows of --input" in done.error
    assert (tmp_path / "y.csv.partial").read_text() == text
    (tmp_path / "y.csv.partial").unlink()
    (tmp_path / "y.csv").write_text("precious")
    done = predict(text, "--output", "y.csv")
    assert (done.code, done.error) == (
        1,
        "y.csv exists already; --overwrite replaces it, or name another file",
    )
    assert (tmp_path / "y.csv").read_text() == "precious"
    assert predict(text, "--output", "y.csv", "--overwrite").code == 0
    assert (tmp_path / "y.csv").read_text() == ADDED
