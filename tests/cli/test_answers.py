"""Predictions as files: what no server of the other tests answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from forwardpass.cli.answers import write_prediction
from forwardpass.cli.errors import CommandError
from forwardpass.client import Prediction


def prediction(**outputs: object) -> Prediction:
    return Prediction({name: np.asarray(y) for name, y in outputs.items()}, "m", "1")


def written(tmp_path: Path, answer: Prediction, **labels: tuple[str, ...]) -> str:
    write_prediction(answer, labels, tmp_path / "out.csv")
    return (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_read_back_as_they_were(tmp_path: Path, dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    y = (rng.standard_normal((50, 1)) * 10.0 ** rng.integers(-4, 4, (50, 1))).astype(dtype)
    lines = written(tmp_path, prediction(y=y)).splitlines()
    np.testing.assert_array_equal(np.array(lines[1:], dtype)[:, np.newaxis], y)
    write_prediction(prediction(y=y), {}, tmp_path / "out.json")
    outputs = json.loads((tmp_path / "out.json").read_text())["outputs"]
    np.testing.assert_array_equal(np.array(outputs["y"], dtype), y)


def test_texts_numbers_and_truths_stand_side_by_side(tmp_path: Path) -> None:
    texts = np.array([b"one, two", b"\xff"], dtype=object)
    answer = prediction(text=texts, n=[[1, 2], [3, 4]], ok=[True, False])
    assert written(tmp_path, answer) == 'text,n[0],n[1],ok\n"one, two",1,2,True\n\ufffd,3,4,False\n'


def test_more_axes_become_more_columns(tmp_path: Path) -> None:
    lines = written(tmp_path, prediction(y=np.arange(8).reshape(2, 2, 2))).splitlines()
    assert lines == ["y[0],y[1],y[2],y[3]", "0,1,2,3", "4,5,6,7"]


def test_labels_of_another_width_are_left_aside(tmp_path: Path) -> None:
    assert written(tmp_path, prediction(y=[[1, 2]]), y=("a",)).startswith("y[0],y[1]\n")


def test_no_rows_leave_the_header(tmp_path: Path) -> None:
    answer = prediction(y=np.empty((0, 2), np.float32), z=np.empty((0, 1), np.float32))
    assert written(tmp_path, answer) == "y[0],y[1],z\n"


def test_outputs_of_unequal_rows_make_no_csv_and_leave_the_file(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(CommandError, match=r"equally many rows, the model answered y \[2\], z"):
        written(tmp_path, prediction(y=[1, 2], z=[1]))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
