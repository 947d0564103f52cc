"""Predictions as tables and as bytes: what no server of the other tests answers."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from forwardpass.cli.answers import Table, encoder, tabulate
from forwardpass.cli.errors import CommandError
from forwardpass.client import Prediction
from forwardpass.proto.metadata import ColumnNames


def prediction(columns: dict[str, ColumnNames] | None = None, **outputs: object) -> Prediction:
    arrays = {name: np.asarray(y) for name, y in outputs.items()}
    return Prediction(arrays, "m", "1", columns=columns or {})


def table(answer: Prediction, **kept: list[object]) -> Table:
    rows = len(next(iter(answer.values())))
    return tabulate(answer, rows, kept, labels=True)


def csv_text(answer: Prediction, **kept: list[object]) -> str:
    return encoder("csv").encode(table(answer, **kept), first=True).decode()


def file(kind: str, path: Path, *tables: Table) -> Path:
    """Write tables as one file of a format."""
    part = path.with_suffix(".part")
    encode = encoder(kind)
    part.write_bytes(b"".join(encode.encode(t, first=i == 0) for i, t in enumerate(tables)))
    encode.finish(part, sum(len(next(iter(t.values()))) for t in tables), path)
    assert not part.exists()
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_read_back_as_they_were(tmp_path: Path, dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    y = (rng.standard_normal((50, 1)) * 10.0 ** rng.integers(-4, 4, (50, 1))).astype(dtype)
    rows = table(prediction(y=y))
    lines = file("csv", tmp_path / "y.csv", rows).read_text().splitlines()
    np.testing.assert_array_equal(np.array(lines[1:], dtype)[:, np.newaxis], y)
    objects = map(json.loads, file("jsonl", tmp_path / "y.jsonl", rows).read_text().splitlines())
    np.testing.assert_array_equal(np.array([[row["y"]] for row in objects], dtype), y)
    np.testing.assert_array_equal(np.load(file("npy", tmp_path / "y.npy", rows, rows)), [*y, *y])
    np.testing.assert_array_equal(
        pq.read_table(file("parquet", tmp_path / "y.parquet", rows))["y"].to_numpy(), y[:, 0]
    )


def test_texts_numbers_and_truths_stand_side_by_side() -> None:
    texts = np.array([b"one, two", b"\xff"], dtype=object)
    answer = prediction(text=texts, n=[[1, 2], [3, 4]], ok=[True, False])
    assert csv_text(answer) == 'text,n[0],n[1],ok\n"one, two",1,2,True\n\ufffd,3,4,False\n'


def test_more_axes_become_more_columns() -> None:
    lines = csv_text(prediction(y=np.arange(8).reshape(2, 2, 2))).splitlines()
    assert lines == ["y[0],y[1],y[2],y[3]", "0,1,2,3", "4,5,6,7"]


def test_labels_of_another_width_are_left_aside() -> None:
    assert csv_text(prediction({"y": ColumnNames(labels=("a",))}, y=[[1, 2]])).startswith("y[0],")


def test_classes_get_their_best_label_and_what_is_measured_gets_none() -> None:
    columns = {
        "kind": ColumnNames(labels=("new", "used")),
        "size": ColumnNames(labels=("length", "width"), units=("mm", "mm")),
    }
    answer = prediction(columns, kind=[[0.25, 0.75], [1, 0]], size=[[1, 2], [3, 4]])
    rows = list(csv.DictReader(StringIO(csv_text(answer))))
    assert [row["kind"] for row in rows] == ["used", "new"]
    assert list(rows[0]) == ["kind.new", "kind.used", "kind", "size.length", "size.width"]
    bare = tabulate(answer, 2, {}, labels=False)
    assert list(bare) == ["kind.new", "kind.used", "size.length", "size.width"]


def test_labels_above_their_thresholds_are_all_given(tmp_path: Path) -> None:
    columns = {"ill": ColumnNames(labels=("flu", "cold", "gout"), thresholds=(0.5, 0.2, 0.5))}
    rows = table(prediction(columns, ill=[[0.75, 0.5, 0.25], [0.25, 0.1, 0.5]]))
    text = file("csv", tmp_path / "y.csv", rows).read_text()
    assert [row["ill"] for row in csv.DictReader(StringIO(text))] == ["flu;cold", "(none)"]
    lines = file("jsonl", tmp_path / "y.jsonl", rows).read_text().splitlines()
    assert [json.loads(line)["ill"] for line in lines] == [["flu", "cold"], []]
    parquet = pq.read_table(file("parquet", tmp_path / "y.parquet", rows))
    assert parquet["ill"].to_pylist() == [["flu", "cold"], []]


def test_no_rows_leave_the_header() -> None:
    answer = prediction(y=np.empty((0, 2), np.float32), z=np.empty((0, 1), np.float32))
    assert csv_text(answer) == "y[0],y[1],z\n"


def test_parquet_keeps_the_types_of_what_is_passed_through(tmp_path: Path) -> None:
    first = table(prediction(y=[1.0]), id=[7], name=["Ann"])
    second = table(prediction(y=[2.0]), id=[None], name=[None])
    got = pq.read_table(file("parquet", tmp_path / "y.parquet", first, second))
    assert got["id"].to_pylist() == [7, None]
    assert got["name"].to_pylist() == ["Ann", None]
    third = table(prediction(y=[2.0]), id=["x"], name=["Bob"])
    with pytest.raises(CommandError, match="column 'id': expected int64 as in the first rows"):
        file("parquet", tmp_path / "y.parquet", first, third)


def test_outputs_that_are_not_by_row_are_reported() -> None:
    with pytest.raises(CommandError, match=r"output 'z': expected answers for 2 rows, got shape"):
        table(prediction(y=[1, 2], z=[1]))


def test_a_kept_column_of_an_outputs_name_is_reported() -> None:
    with pytest.raises(CommandError, match="another name than the model's outputs, got 'y'"):
        table(prediction(y=[1]), y=["Ann"])


def test_a_row_without_an_answer_has_an_empty_verdict_in_every_format(tmp_path: Path) -> None:
    nan = np.nan
    columns = {
        "risk": ColumnNames(labels=("benign", "malignant"), thresholds=(0.3,)),
        "kind": ColumnNames(labels=("new", "used")),
        "ill": ColumnNames(labels=("flu", "cold"), thresholds=(0.5, 0.5)),
    }
    # The first table has no answer at all: the columns' types come from what they are.
    empty = prediction(columns, risk=[[nan]], kind=[[nan, nan]], ill=[[nan, nan]])
    answer = prediction(columns, risk=[[0.4]], kind=[[nan, 1]], ill=[[0.1, 0.2]])
    tables = table(empty), table(answer)
    text = file("csv", tmp_path / "y.csv", *tables).read_text()
    first, second = csv.DictReader(StringIO(text))
    assert [first[name] for name in columns] == ["", "", ""]
    assert [second[name] for name in columns] == ["malignant", "used", "(none)"]
    assert first["risk.malignant"] == "nan"
    lines = file("jsonl", tmp_path / "y.jsonl", *tables).read_text().splitlines()
    rows = [[json.loads(line)[name] for name in columns] for line in lines]
    assert rows == [[None, None, None], ["malignant", "used", []]]
    parquet = pq.read_table(file("parquet", tmp_path / "y.parquet", *tables))
    assert [
        list(row) for row in zip(*(parquet[n].to_pylist() for n in columns), strict=True)
    ] == rows
