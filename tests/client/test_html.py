"""What a notebook shows of a prediction."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from forwardpass.client import Client, Prediction
from forwardpass.client._messages.codec import ModelCodec
from forwardpass.client.model import ModelSpec
from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
from forwardpass.proto.metadata import OUTPUTS, ColumnNames
from forwardpass.server.app import Server
from forwardpass.server.config import Config

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def caption(prediction: Prediction) -> str:
    found = parsed(prediction).find("table/caption")
    assert found is not None
    return "".join(found.itertext())


def parsed(prediction: Prediction) -> ET.Element:
    """The HTML, which is well-formed XML too."""
    return ET.fromstring(f"<div>{prediction._repr_html_()}</div>")


def table(prediction: Prediction) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parsed(prediction).iter("tr")]


def notes(prediction: Prediction) -> list[str | None]:
    return [note.text for note in parsed(prediction).iter("p")]


def test_outputs_stand_side_by_side_with_labels_units_and_values() -> None:
    prediction = Prediction(
        {
            "kind": np.array([[0.25, 0.75], [1, 0]], np.float32),
            "price": np.array([[12.3456789], [-1e9]]),
            "name": np.array([[b"a<b"], ["ü".encode()]], dtype=object),
            "sold": np.array([[True], [False]]),
        },
        "cars",
        "3",
        columns={"kind": ColumnNames(labels=("new", "used")), "price": ColumnNames(units=("EUR",))},
    )
    assert caption(prediction) == "cars version 3"
    assert table(prediction) == [
        ["", "kind float32[2, 2]", "price float64[2, 1]", "name bytes[2, 1]", "sold bool[2, 1]"],
        ["", "new", "used", "label", "(EUR)", "", ""],
        ["0", "0.25", "0.75", "used", "12.3457", "a<b", "True"],
        ["1", "1", "0", "new", "-1e+09", "ü", "False"],
    ]
    assert notes(prediction) == []


def test_a_unit_follows_its_label_and_labels_of_another_width_are_left_aside() -> None:
    y = np.array([[1.5, 2]], np.float32)
    names = ColumnNames(labels=("mass", "age"), units=("kg", ""))
    assert table(Prediction({"y": y}, "m", "", columns={"y": names}))[1] == ["", "mass (kg)", "age"]
    names = ColumnNames(labels=("mass",), units=("kg",))
    assert table(Prediction({"y": y}, "m", "", columns={"y": names}))[1] == ["", "0", "1"]


def test_outputs_for_one_row_without_its_axis_are_one_row() -> None:
    names = ColumnNames(labels=("new", "used"))
    outputs = {"y": np.array([1, 2]), "total": np.array(3)}
    prediction = Prediction(outputs, "m", "", columns={"y": names})
    assert table(prediction)[1:] == [["", "new", "used", "label", ""], ["0", "1", "2", "used", "3"]]


def test_an_output_of_one_number_a_row_is_a_column_beside_the_others() -> None:
    prediction = Prediction({"y": np.array([[1, 2], [3, 4]]), "total": np.array([3, 7])}, "m", "")
    assert table(prediction)[2:] == [["0", "1", "2", "3"], ["1", "3", "4", "7"]]


def test_large_arrays_are_cut_with_a_note_and_stay_small() -> None:
    y = np.arange(1000 * 64).reshape(1000, 64)
    prediction = Prediction({"y": y, "few": y[:3, :1]}, "m", "")
    rows = table(prediction)
    assert rows[1] == ["", *map(str, range(8)), ELLIPSIS, ""]
    assert rows[2] == ["0", *map(str, range(8)), ELLIPSIS, "0"]
    assert len(rows) == 2 + 10
    assert rows[-1] == ["9", *map(str, range(9 * 64, 9 * 64 + 8)), ELLIPSIS, ""]
    assert notes(prediction) == ["y: first 10 of 1,000 rows, first 8 of 64 columns"]
    assert len(prediction._repr_html_()) < 5000


def test_long_texts_are_cut() -> None:
    prediction = Prediction({"y": np.array([[b"x" * 1000]], dtype=object)}, "m", "")
    assert table(prediction)[2] == ["0", "x" * 39 + ELLIPSIS]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (2, 3, 4), (2, 1, 1, 1)])
def test_arrays_of_any_shape_have_a_table_of_even_rows(shape: tuple[int, ...]) -> None:
    prediction = Prediction({"y": np.zeros(shape), "z": np.ones((2, 2))}, "m", "")
    _, headings, *rows = table(prediction)
    assert len({len(row) for row in (headings, *rows)}) == 1
    spans = [int(cell.get("colspan", 1)) for cell in next(parsed(prediction).iter("tr"))]
    assert sum(spans) == len(headings)
    assert [row[-2:] for row in rows[:2]] == [["1", "1"], ["1", "1"]]


def test_columns_of_further_axes_are_named_by_their_place() -> None:
    headings = table(Prediction({"y": np.zeros((1, 2, 3))}, "m", ""))[1]
    assert headings[1:] == ["0, 0", "0, 1", "0, 2", "1, 0", "1, 1", "1, 2"]


def test_everything_is_escaped() -> None:
    bad = "<script>\"&'</script>"
    prediction = Prediction(
        {bad: np.array([[bad.encode(), b"\xff</td>"]], dtype=object)},
        bad,
        bad,
        columns={bad: ColumnNames(labels=(bad, "&amp;"), units=(bad, ""))},
    )
    html = prediction._repr_html_()
    assert "<script" not in html
    assert unescape(html).count("<script") == 6  # caption twice, name, label, unit, value
    assert table(prediction)[1][2] == "&amp;"
    assert table(prediction)[2][2] == "\ufffd</td>"


def test_labels_come_with_the_prediction_of_a_served_model(tmp_path: Path) -> None:
    example = ZOO["breast_cancer"]
    publish(example.network(), tmp_path)
    with Server(Config(models=tmp_path, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            prediction = client.predict("breast_cancer", example.held_out().x[:2])
    assert caption(prediction) == "breast_cancer version 1"
    _, headings, *rows = table(prediction)
    assert headings[:3] == ["", "worst radius", "worst texture (gray levels)"]
    assert headings[-2:] == ["malignant", "label"]
    label = prediction.label("malignancy")[1]
    assert rows[1][-2:] == [f"{prediction['malignancy'][1, 0]:.6g}", label]
    assert notes(prediction) == ["worst: first 8 of 10 columns"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"y": 1}', '{"y": {"labels": 1}}'])
def test_properties_of_another_form_name_no_columns(text: str, reply: Callable[..., bytes]) -> None:
    spec = ModelSpec(
        name="m", versions=(), platform="", inputs=(), outputs=(), properties={OUTPUTS: text}
    )
    codec = ModelCodec(spec, "m", "", "target")
    request = codec.write(codec.read({"x": np.zeros((1, 1))}))
    assert codec.decode(reply({"y": np.ones((1, 1))}), request).columns == {}


def test_what_is_no_number_has_no_label_and_a_row_without_one_says_so() -> None:
    columns = {
        "risk": ColumnNames(labels=("benign", "malignant"), thresholds=(0.3,)),
        "ill": ColumnNames(labels=("flu", "cold"), thresholds=(0.5, 0.5)),
    }
    outputs = {"risk": [[0.4], [np.nan]], "ill": [[0.1, 0.2], [np.nan, np.nan]]}
    prediction = Prediction({n: np.array(y) for n, y in outputs.items()}, "m", "", columns=columns)
    assert table(prediction)[1:] == [
        ["", "malignant", "label", "flu", "cold", "label"],
        ["0", "0.4", "malignant", "0.1", "0.2", "(none)"],
        ["1", "nan", "", "nan", "nan", ""],
    ]
