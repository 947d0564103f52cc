"""`forwardpass predict` and `inspect` for a model of numbers and categories."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.command import Finished, run_here

from forwardpass.models import Categorical, Dense, Input, Network, publish
from forwardpass.server.app import Server
from forwardpass.server.config import Config

LOANS = Network.define(
    [
        Input(2, "numbers", ("age", "income"), mean=[40, 30], scale=[9, 8], fill={"age": 38}),
        Categorical("purpose", ("car", "house")),
        Categorical("rooms", (1, 2, 3), unknown="zeros", missing=2),
        Input(1, "debt", fill=[7]),
    ],
    [Dense("hidden", 8, "tanh"), Dense("y", 1, "identity")],
    name="loans",
    seed=3,
)
TABLE: dict[str, list[Any]] = {
    "age": [61, None, 35],
    "income": [40, 25, 31],
    "purpose": ["car", "house", "car"],
    "rooms": [3, None, 9],
    "debt": [None, 1, 2],
}
CSV = "id,rooms,purpose,age,debt,income\nA,3,car,61,,40\nB,,house,,1,25\nC,9,car,35,2,31\n"
ONE = Network.define(Categorical("c", ("a", "b")), [Dense("y", 2, "softmax")], name="one")
FILLED = Network.define(Input(2, features=("a", "b"), fill=[1, np.nan]), [Dense("y", 1, "relu")])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    for network in (LOANS, ONE, FILLED):
        publish(network, root)
    with Server(Config(models=root, port=0)) as server:
        yield server


def predict(server: Server, folder: Path, model: str, name: str, *options: str) -> Finished:
    target = f"127.0.0.1:{server.port}"
    return run_here("predict", model, "--input", name, "--target", target, *options, cwd=folder)


@pytest.mark.parametrize("rows_per_call", [1, 2, 100])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_of_every_format_go_by_names_to_the_inputs(
    server: Server, tmp_path: Path, ending: str, rows_per_call: int
) -> None:
    path = tmp_path / f"rows.{ending}"
    frame = pd.DataFrame({"id": ["A", "B", "C"], **TABLE}).astype({"rooms": "Int64"})
    if ending == "csv":
        path.write_text(CSV)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    options = ("--keep", "id", "--keep", "purpose", "--rows-per-call", str(rows_per_call))
    done = predict(server, tmp_path, "loans", path.name, *options)
    assert (done.code, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head == "id,purpose,y"
    assert [line.split(",")[:2] for line in lines] == [["A", "car"], ["B", "house"], ["C", "car"]]
    got = [float(line.split(",")[2]) for line in lines]
    np.testing.assert_allclose(got, LOANS(TABLE)["y"][:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "house",
            "hous",
            "x.csv: line 3, column 'purpose': expected one of its categories ('car', 'house'), "
            "got 'hous'; is it meant to be 'house'?",
        ),
        (
            "house",
            "",
            "x.csv: line 3, column 'purpose': expected one of its categories ('car', 'house'), "
            "got a missing one; fill it in, or pass --missing nan for no answer",
        ),
        ("C,9", "C,x", "x.csv: line 4, column 'rooms': expected integers of 64 bits, got 'x'"),
        (",31", ",", "x.csv: line 4, column 'income': expected a number, got ''; fill it in"),
        ("car,61", "car,old", "x.csv: line 2, column 'age': expected a number, got 'old'"),
        (
            "purpose",
            "reason",
            "expected one column for the model's categories, got 0 named 'purpose'; the file has "
            "'id', 'rooms', 'reason', 'age', 'debt', 'income'; rename the one that has it, or add "
            "it",
        ),
        (
            "income",
            "incme",
            "expected one column for each of the model's 3 features, got 0 named 'income'; the "
            "file has 'id', 'rooms', 'purpose', 'age', 'debt', 'incme'; is 'incme' meant to be "
            "'income'?",
        ),
        ("C,9", "C,1.5", "line 4, column 'rooms': expected integers of 64 bits, got '1.5'"),
    ],
)
def test_what_the_model_does_not_know_is_named_by_line_and_column(
    server: Server, tmp_path: Path, old: str, new: str, error: str
) -> None:
    (tmp_path / "x.csv").write_text(CSV.replace(old, new))
    done = predict(server, tmp_path, "loans", "x.csv", "--rows-per-call", "2")
    assert done.code == 1
    assert error in done.error


def test_integers_may_be_written_as_pandas_writes_them_beside_a_missing_one(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text(CSV)
    expected = predict(server, tmp_path, "loans", "x.csv").stdout
    pd.read_csv(tmp_path / "x.csv").to_csv(tmp_path / "x.csv", index=False)
    assert "9.0" in (tmp_path / "x.csv").read_text()
    assert predict(server, tmp_path, "loans", "x.csv").stdout == expected


def test_a_row_without_a_category_has_no_answer_if_the_caller_chooses_that(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text(CSV.replace("house", "n/a"))
    done = predict(server, tmp_path, "loans", "x.csv", "--missing", "nan", "--na", "n/a")
    assert (done.code, done.stdout.splitlines()[2]) == (0, "nan")
    numbers = [float(line) for line in done.stdout.splitlines()[1:]]
    assert np.isnan(numbers).tolist() == [False, True, False]


def test_a_model_of_categories_alone_takes_its_column(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("note,c\nx,b\ny,a\n")
    (tmp_path / "x.jsonl").write_text('{"c":"b","note":1}\n{"c":"a","note":2}\n')
    for name in ("x.csv", "x.jsonl"):
        done = predict(server, tmp_path, "one", name)
        assert (done.code, done.stderr) == (0, "")
        got = [[float(x) for x in line.split(",")] for line in done.stdout.splitlines()[1:]]
        np.testing.assert_allclose(got, ONE({"c": ["b", "a"]})["y"], atol=1e-5)
    (tmp_path / "plain.csv").write_text("1\n2\n")
    done = predict(server, tmp_path, "one", "plain.csv")
    assert "expected a header for the column 'c', got none" in done.error


def test_missing_numbers_are_sent_where_the_model_fills_them_in(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n,2\n3,4\n")
    (tmp_path / "plain.csv").write_text("1,2\n,2\n")
    (tmp_path / "x.jsonl").write_text('{"a":null,"b":2}\n{"a":3,"b":4}\n')
    expected = FILLED([[1, 2], [3, 4]])["y"][:, 0]
    for name in ("x.csv", "x.jsonl"):
        done = predict(server, tmp_path, "network", name)
        assert done.code == 0
        np.testing.assert_allclose([*map(float, done.stdout.split()[1:])], expected, atol=1e-5)
    done = predict(server, tmp_path, "network", "plain.csv")
    np.testing.assert_allclose([*map(float, done.stdout.split()[1:])], expected[[0, 0]], atol=1e-5)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,\n")
    done = predict(server, tmp_path, "network", "x.csv")
    assert "x.csv: line 3, column 'b': expected a number, got ''" in done.error


def test_inspect_shows_categories_and_what_is_filled_in(tmp_path: Path) -> None:
    publish(LOANS, tmp_path)
    shown = run_here("inspect", str(tmp_path)).stdout
    for text in (
        "age or 38, income",
        "'car', 'house'",
        "1, 2, 3; any other: zeros; missing: 2",
        "or 7",
        "numbers, purpose, rooms, debt",
    ):
        assert text in shown
