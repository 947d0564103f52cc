"""`forwardpass predict`: rows of a file in, named outputs out."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.command import Finished, Serving, run, run_here

from forwardpass.client import Client, load
from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
from forwardpass.models.zoo.penguins import FEATURES as MEASURED
from forwardpass.server import Config, Server

Predict = Callable[..., Finished]

ADDED = "y.a + 2b,y.a - b,sum\n21.0,-9.0,11.0\n3.5,0.5,2.5\n"
"""The adder's answer to the rows (1, 10) and (1.5, 1)."""


@pytest.fixture
def predict(server: Serving, tmp_path: Path) -> Predict:
    """Run `forwardpass predict` in a folder with these files, against the tests' server."""

    def predict(model: str, *options: str, files: dict[str, str] | None = None) -> Finished:
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)
        env = {"FORWARDPASS_TARGET": server.target}
        return run_here("predict", model, *options, cwd=tmp_path, env=env)

    return predict


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,10\n1.5,1\n",
        "b,a\n10,1\n1,1.5\n",
        "patient,b,diagnosis,a\nAnn,10,?,1\nBob,1,,1.5\n",
        "1,10\n1.5,1\n",
        "\ufeffa,b\r\n1,10\r\n\r\n1.5,1\r\n",
        '"a", b\n1, 10\n1.5,1',
    ],
    ids=["header", "another order", "other columns", "no header", "a spreadsheet's", "spaces"],
)
def test_rows_of_a_csv_file_are_answered_on_stdout(predict: Predict, text: str) -> None:
    done = predict("adder", "--input", "rows.csv", files={"rows.csv": text})
    assert (done.code, done.stderr, done.stdout) == (0, "", ADDED)


def test_what_each_feature_contributes_comes_after_the_answers(predict: Predict) -> None:
    rows = {"rows.csv": "a,b\n1,10\n1.5,1\n"}
    done = predict("adder", "--input", "rows.csv", "--explain", "y:a - b", files=rows)
    assert (done.code, done.stderr) == (0, "")
    # It is linear, and its baseline is zero.
    added = "explain.y.a,explain.y.b,explain.y.error"
    assert done.stdout.splitlines() == [
        f"y.a + 2b,y.a - b,sum,{added}",
        "21.0,-9.0,11.0,1.0,-10.0,0.0",
        "3.5,0.5,2.5,1.5,-1.0,0.0",
    ]
    done = predict("adder", "--input", "rows.csv", "--explain", "total", files=rows)
    assert done.code == 1
    assert "y, sum" in done.error


def test_a_category_contributes_as_one_column(tmp_path: Path) -> None:
    file = publish(ZOO["penguins"].network(), tmp_path / "models").path
    held_out = ZOO["penguins"].held_out()[:2]
    header = [*MEASURED, "island", "sex"]
    rows = np.hstack([held_out.x[name] for name in ("measurements", "island", "sex")])
    with (tmp_path / "rows.csv").open("w", newline="") as table:
        csv.writer(table).writerows([header, *rows.tolist()])
    with Server(Config(models=tmp_path / "models", port=0)) as server:
        target = f"127.0.0.1:{server.port}"
        asked = ("--input", "rows.csv", "--explain", "species:Gentoo", "--target", target)
        done = run_here("predict", "penguins", *asked, cwd=tmp_path, env={})
    assert (done.code, done.stderr) == (0, "")
    (found, _) = csv.DictReader(done.stdout.splitlines())
    wanted = load(file).predict("penguins", held_out.x, explain="species:Gentoo").attributions
    assert [*wanted] == header
    for name, values in wanted.items():
        assert float(found[f"explain.species.{name}"]) == pytest.approx(float(values[0]), rel=1e-6)


def test_as_a_process_it_writes_nothing_but_the_answers(server: Serving, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,10\n1.5,1\n")
    command = ("predict", "adder", "--input", "rows.csv", "--target")
    assert run(*command, server.target, cwd=tmp_path) == Finished(0, ADDED, "")
    done = run(*command, "127.0.0.1:1", cwd=tmp_path)
    assert (done.code, done.stdout) == (1, "")
    assert done.error.startswith("127.0.0.1:1: model 'adder': ")
    assert "check that the server runs there" in done.error


def test_a_file_of_patients_gets_the_answers_of_the_client(
    predict: Predict, server: Serving, patients: np.ndarray, tmp_path: Path
) -> None:
    network = ZOO["breast_cancer"].network()
    order = np.random.default_rng(0).permutation(network.input.size)
    with (tmp_path / "patients.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(np.array(network.input.features)[order])
        writer.writerows(patients[:, order].tolist())
    assert predict("breast_cancer", "--input", "patients.csv", "--output", "out.csv").code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    with Client(server.target) as client:
        prediction = client.predict("breast_cancer", patients)
    assert header[0] == "worst.worst radius"
    assert header[-2:] == ["malignancy.malignant", "malignancy"]
    assert [row.pop() for row in rows] == prediction.label("malignancy")
    expected = np.concatenate([prediction["worst"], prediction["malignancy"]], axis=1)
    np.testing.assert_array_equal(np.array(rows, np.float32), expected)


@pytest.mark.parametrize("shape", [(2, 2), (2,)], ids=["rows", "one row"])
def test_a_npy_file_is_answered(predict: Predict, tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "rows.npy", np.resize([1, 10, 1.5, 1], shape))
    done = predict("adder", "--input", "rows.npy")
    assert done.stdout.splitlines() == ADDED.splitlines()[: 1 + np.prod(shape) // 2]


def test_an_integer_input_takes_whole_numbers(predict: Predict) -> None:
    rows = {"rows.csv": "1,2,9007199254740993\n"}
    done = predict("counts", "--input", "rows.csv", files=rows)
    assert done.stdout == "y[0],y[1],y[2]\n1,2,9007199254740993\n"
    done = predict("counts", "--input", "rows.csv", files={"rows.csv": "1,2,3.5\n"})
    assert done.error == "rows.csv: line 1, column 3: expected a whole number, got '3.5'"


def test_json_lines_hold_an_object_a_row(predict: Predict, tmp_path: Path) -> None:
    rows = {"rows.csv": "1,10\n1.5,nan\n"}
    assert predict("adder", "--input", "rows.csv", "--output", "out.jsonl", files=rows).code == 0
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        {"y.a + 2b": 21.0, "y.a - b": -9.0, "sum": 11.0},
        {"y.a + 2b": None, "y.a - b": None, "sum": None},
    ]


def test_npy_holds_the_one_output_selected(predict: Predict, tmp_path: Path) -> None:
    rows = {"rows.csv": "1,10\n"}
    options = ("--input", "rows.csv", "--output", "out.npy")
    assert predict("adder", *options, "--select", "sum", files=rows).code == 0
    got = np.load(tmp_path / "out.npy")
    assert (got.dtype, got.tolist()) == (np.float32, [[11.0]])
    (tmp_path / "out.npy").unlink()
    done = predict("adder", *options)
    assert done.code == 1
    assert (
        "a .npy file holds one array, the model answers y, sum; choose one with --select"
        in done.error
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]


def test_outputs_come_in_the_order_selected(predict: Predict) -> None:
    options = ("--input", "rows.csv", "--select", "sum", "--select", "y")
    done = predict("adder", *options, files={"rows.csv": "1,10\n"})
    assert done.stdout == "sum,y.a + 2b,y.a - b\n11.0,21.0,-9.0\n"


def test_a_version_can_be_asked_for(predict: Predict) -> None:
    rows = {"rows.csv": "1,10\n"}
    options = ("--input", "rows.csv")
    assert predict("adder", *options, "--version", "1", files=rows).code == 0
    assert "no version '7'" in predict("adder", *options, "--version", "7").error


@pytest.mark.parametrize(
    ("model", "text", "error"),
    [
        ("nobody", "1,2\n", "model: 'nobody' is not found; available: adder, "),
        ("adder", "1\n", "expected shape [-1, 2], got [1, 1]; axis 1 must be 2 long"),
        ("adder", "1,2,3\n", "expected shape [-1, 2], got [1, 3]; axis 1 must be 2 long"),
        (
            "adder",
            "a,c\n1,2\n",
            "one column for each of the model's 2 features, got 0 named 'b'; the file has 'a', 'c'",
        ),
        ("adder", "a,c\n1,2\n", "'a', 'c'; rename the one that has it, or add it"),
        ("adder", "a,b,a\n1,2,3\n", "got 2 named 'a'; the file has 'a', 'b', 'a'; leave one out"),
        ("adder", "a,b\n1,2\n3,x\n", "rows.csv: line 3, column 'b': expected a number, got 'x'"),
        ("adder", "1,2\n\n3,\n", "rows.csv: line 3, column 2: expected a number, got ''"),
        ("adder", "1,x\n3,4\n", "rows.csv: line 1, column 2: expected a number, got 'x'"),
        ("adder", "1,2\n3\n", "rows.csv: line 2: expected 2 columns, got 1"),
        ("adder", "", "rows.csv: expected rows of numbers, got an empty file"),
        ("pair", "1,2\n", "expected one input for the rows of a file, got a: FP32[-1, 2], b: "),
        ("constant", "1,2\n", "expected one input for the rows of a file, got none"),
        ("scalar", "1\n", "expected one input for the rows of a file, got x: FP32[]"),
        ("adder", "a,b\n1,2\n1e39,3\n", "line 3, column 'a': expected a number of magnitude up"),
        ("bytes", "1\n", "input 'x': expected BYTES elements"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(
    predict: Predict, model: str, text: str, error: str
) -> None:
    done = predict(model, "--input", "rows.csv", files={"rows.csv": text})
    assert done.code == 1
    assert error in done.error
    assert done.stdout == ""


def test_a_file_that_is_no_text_is_reported(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("größe,b\n".encode("latin-1"))
    error = predict("adder", "--input", "rows.csv").error
    assert error.startswith("rows.csv: not a CSV file in UTF-8 (")


def test_a_whole_number_beyond_64_bits_is_reported(predict: Predict) -> None:
    rows = {"rows.csv": f"1,2,{2**64}\n"}
    error = predict("counts", "--input", "rows.csv", files=rows).error
    assert error.startswith("rows.csv: ")
    assert "the input's datatype is INT64" in error


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (("--input", "none.csv"), 1, "none.csv: No such file or directory"),
        (
            ("--input", "rows.txt"),
            2,
            "rows.txt: expected rows in a .csv, .tsv, .jsonl, .npy",
        ),
        (("--input", "rows.npy"), 1, "rows.npy: not a NumPy array"),
        (("--input", "rows.csv", "--output", "out.xlsx"), 2, "--output: expected a .csv, .jsonl"),
        (("--input", "rows.csv", "--output", "no/out.csv"), 2, "there is no directory 'no'"),
        (("--input", "rows.csv", "--select", "z"), 1, "'z': expected one of 'y', 'sum', got 'z'"),
        (("--input", "rows.csv", "--target", "localhost"), 2, "target: expected HOST:PORT"),
        (("--input", "rows.csv", "--ca-file", "none.pem"), 1, "none.pem: No such file"),
        (("--input", "rows.csv", "--cert-file", "rows.csv"), 2, "expected both or neither"),
    ],
)
def test_what_cannot_be_done_is_reported_in_one_line(
    predict: Predict, options: tuple[str, ...], code: int, error: str
) -> None:
    files = dict.fromkeys(("rows.csv", "rows.npy", "rows.txt"), "1,10\n")
    done = predict("adder", *options, files=files)
    assert done.code == code
    assert error in done.error


def test_a_file_that_is_there_stays_as_it_is_when_the_call_fails(
    predict: Predict, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("before\n")
    options = ("--input", "rows.csv", "--output", "out.csv", "--overwrite")
    rows = {"rows.csv": "1,2,3\n"}
    assert predict("adder", *options, files=rows).code == 1
    assert (tmp_path / "out.csv").read_text() == "before\n"
    rows = {"rows.csv": "1,10\n"}
    assert predict("adder", *options, files=rows).code == 0
    assert (tmp_path / "out.csv").read_text().startswith("y.a + 2b,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]
