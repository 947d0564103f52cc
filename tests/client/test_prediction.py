import copy
import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from forwardpass.client import Prediction
from forwardpass.proto.metadata import ColumnNames


@pytest.fixture
def prediction() -> Prediction:
    return Prediction(
        {
            "malignant": np.array([[0.25], [0.75]], dtype=np.float32),
            "name": np.array([b"a", b"b"], dtype=object),
        },
        "cancer",
        "3",
    )


def test_it_is_a_mapping_in_order(prediction):
    assert list(prediction) == ["malignant", "name"]
    assert len(prediction) == 2
    assert prediction["malignant"].shape == (2, 1)
    assert "other" not in prediction


def test_an_unknown_output_is_refused_with_the_known_ones(prediction):
    with pytest.raises(KeyError, match="no output 'other'; there are malignant, name"):
        prediction["other"]


def test_it_cannot_be_changed(prediction):
    with pytest.raises(TypeError):
        prediction["malignant"] = np.zeros(1)
    with pytest.raises(AttributeError):
        prediction.model = "another"


def test_its_repr_shows_names_dtypes_shapes_and_values(prediction):
    assert repr(prediction) == (
        "<Prediction of 'cancer' version 3\n"
        "  malignant: float32[2, 1] = [[0.25], [0.75]]\n"
        "  name: bytes[2] = [b'a', b'b']>"
    )


def test_its_repr_stays_short_for_large_outputs():
    text = repr(Prediction({"y": np.zeros((1000, 30), dtype=np.float32)}, "m", ""))
    assert text.startswith("<Prediction of 'm'\n  y: float32[1000, 30] = [[0., 0., ..., 0., 0.]")
    assert len(text) < 250


def test_predictions_are_equal_by_model_version_names_and_values(prediction):
    same = Prediction({name: array.copy() for name, array in prediction.items()}, "cancer", "3")
    assert prediction == same
    assert prediction != Prediction(dict(prediction), "cancer", "4")
    turned = {name: prediction[name] for name in ("name", "malignant")}
    assert prediction != Prediction(turned, "cancer", "3")
    assert prediction != Prediction(dict(prediction) | {"name": np.zeros(2)}, "cancer", "3")
    assert prediction != dict(prediction)


# Outputs by attribute


def test_an_output_is_an_attribute_too(prediction):
    assert prediction.malignant is prediction["malignant"]
    assert "malignant" in dir(prediction)


def test_what_a_prediction_has_itself_is_no_output():
    prediction = Prediction({"model": np.zeros(1), "version": np.ones(1)}, "m", "7")
    assert (prediction.model, prediction.version) == ("m", "7")
    assert prediction["version"].tolist() == [1]


def test_an_attribute_that_is_none_is_refused(prediction):
    with pytest.raises(AttributeError, match="no attribute and no output 'other'"):
        _ = prediction.other
    assert not hasattr(prediction, "other")


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_a_copy_is_equal(prediction, copied):
    assert copied(prediction) == prediction


# Labels

KINDS = ColumnNames(labels=("new", "used", "wreck"))
ILLNESSES = ColumnNames(labels=("flu", "cold"), thresholds=(0.5, 0.25))


def labeled(**outputs):
    columns = {"kind": KINDS, "ill": ILLNESSES, "price": ColumnNames(units=("EUR",))}
    arrays = {name: np.asarray(values, np.float32) for name, values in outputs.items()}
    return Prediction(arrays, "m", "1", columns=columns)


def test_the_label_of_a_row_is_that_of_its_largest_column():
    rows = labeled(kind=[[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])
    assert rows.label("kind") == ["used", "new"]
    assert rows.label() == ["used", "new"]
    assert labeled(kind=[0.1, 0.2, 0.7]).label() == "wreck"
    assert labeled(kind=np.zeros((0, 3))).label() == []


def test_the_labels_of_a_row_are_those_above_their_thresholds():
    rows = labeled(ill=[[0.6, 0.3], [0.6, 0.2], [0.1, 0.1]])
    assert rows.labels("ill") == [["flu", "cold"], ["flu"], []]
    assert rows.labels() == rows.labels("ill")
    assert labeled(ill=[0.4, 0.3]).labels() == ["cold"]


def test_a_column_that_equals_its_threshold_is_not_above_it():
    assert labeled(ill=[0.5, 0.25]).labels() == []
    # float32's nearest to 0.3 is above float64's.
    assert labeled(ill=[0.3, 0.0]).labels(thresholds=0.3) == []


def test_thresholds_of_the_caller_are_over_those_of_the_file():
    rows = labeled(ill=[[0.6, 0.3]])
    assert rows.labels(thresholds=0.2) == [["flu", "cold"]]
    assert rows.labels(thresholds={"cold": 0.2, "flu": 0.9}) == [["cold"]]
    assert rows.labels(thresholds=[0.9, 0.2]) == [["cold"]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: p.label(), "output: expected its name, as 2 of the outputs have labels"),
        (lambda p: p.label("price"), "output 'price': expected a label for each column of [1]"),
        (lambda p: p.label("ill"), "of which several may apply, or none; call labels() for them"),
        (lambda p: p.label("kind", threshold=0.5), "call labels(thresholds=...) for those above"),
        (lambda p: p.labels("ill", thresholds=np.nan), "expected numbers as thresholds, got NaN"),
        (lambda p: p.labels("kind"), "output 'kind': expected one threshold, or one for each of"),
        (lambda p: p.labels("ill", thresholds=[1, 2, 3]), "its 2 columns, got [3]"),
    ],
)
def test_labels_that_are_not_there_are_an_error(call, text):
    prediction = labeled(kind=[[0, 0, 1]], ill=[[0, 1]], price=[[5]])
    with pytest.raises(ValueError, match=re.escape(text)):
        call(prediction)
    with pytest.raises(KeyError, match="no output 'other'"):
        prediction.label("other")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"labels": ("benign", "malignant")}, ["benign", "benign", "malignant", None]),
        ({"labels": ("benign", "malignant"), "thresholds": (0.25,)},
         ["benign", "malignant", "malignant", None]),
        ({"labels": ("malignant",)}, ["not malignant", "not malignant", "malignant", None]),
        ({"labels": ("malignant",), "thresholds": (0.25,)},
         ["not malignant", "malignant", "malignant", None]),
    ],
)  # fmt: skip
def test_one_column_decides_by_its_threshold_and_nan_does_not(names, expected):
    y = np.array([[0.25], [0.5], [0.75], [np.nan]], np.float32)
    prediction = Prediction({"y": y}, "m", "1", columns={"y": ColumnNames(**names)})
    assert prediction.label() == expected
    assert Prediction({"y": y[2]}, "m", "1", columns=prediction.columns).label() == "malignant"
    below = expected[0]
    assert prediction.label(threshold=0.8) == [below, below, below, None]


def test_of_two_classes_in_one_column_one_always_holds():
    columns = {"y": ColumnNames(labels=("benign", "malignant"), thresholds=(0.5,))}
    prediction = Prediction({"y": np.array([[0.2], [0.7], [np.nan]])}, "m", "1", columns=columns)
    assert prediction.labels() == [["benign"], ["malignant"], None]
    assert prediction.labels(thresholds=0.1) == [["malignant"], ["malignant"], None]


def test_a_measured_column_has_no_verdict_without_a_threshold():
    columns = {"y": ColumnNames(labels=("price",), units=("EUR",))}
    prediction = Prediction({"y": np.array([[3.0]])}, "m", "1", columns=columns)
    with pytest.raises(ValueError, match="expected a threshold for its column, which is measured"):
        prediction.label()
    assert prediction.label(threshold=2) == ["price"]


def test_nan_is_no_answer_and_never_wins():
    nan = np.nan
    rows = labeled(kind=[[0.1, nan, 0.9], [nan, nan, -np.inf], [nan, nan, nan]])
    assert rows.label() == ["wreck", "wreck", None]
    assert labeled(kind=[nan, nan, nan]).label() is None
    assert labeled(ill=[[nan, nan], [nan, 0.9], [nan, 0.1], [0.1, 0.1]]).labels() == [
        None,
        ["cold"],
        None,
        [],
    ]


def test_labels_are_of_numbers():
    columns = {"y": ColumnNames(labels=("a", "b"))}
    texts = Prediction({"y": np.array([[b"a", b"b"]], object)}, "m", "1", columns=columns)
    with pytest.raises(ValueError, match="expected columns of numbers for its labels, got bytes"):
        texts.label()


# Tables


def test_a_prediction_is_a_table_of_pandas_polars_and_arrow():
    columns = {
        "kind": ColumnNames(labels=("new", "used")),
        "ill": ColumnNames(labels=("flu", "cold"), thresholds=(0.5, 0.5)),
    }
    outputs = {
        "kind": np.array([[0.25, 0.75], [np.nan, np.nan]]),
        "ill": np.array([[0.9, 0.75], [0.1, 0.2]]),
        "price": np.array([[1], [2]]),
        "total": np.array([3, 4]),
        "map": np.arange(8).reshape(2, 2, 2),
    }
    prediction = Prediction(outputs, "m", "1", columns=columns)
    frame = prediction.to_pandas()
    assert list(frame) == [
        *("kind.new", "kind.used", "kind", "ill.flu", "ill.cold", "ill", "price", "total"),
        *("map[0]", "map[1]", "map[2]", "map[3]"),
    ]
    assert (frame["kind"][0], frame["kind"].isna().tolist()) == ("used", [False, True])
    assert frame["ill"].tolist() == [["flu", "cold"], []]
    assert frame["total"].tolist() == [3, 4]
    assert frame["map[3]"].tolist() == [3, 7]
    table = prediction.table(labels=False)
    assert pl.DataFrame(table)["kind.used"].to_list()[0] == 0.75
    assert pa.table(table)["price"].to_pylist() == [1, 2]


def test_one_row_without_its_axis_is_a_table_of_one_row():
    outputs = {"y": np.array([1.0, 2.0]), "total": np.array(3.0)}
    frame = Prediction(outputs, "m", "1", single_row=True).to_pandas()
    assert frame.to_dict("list") == {"y[0]": [1.0], "y[1]": [2.0], "total": [3.0]}
    empty = Prediction({"y": np.zeros((0, 2))}, "m", "1").to_pandas()
    assert (list(empty), len(empty)) == (["y[0]", "y[1]"], 0)


@pytest.mark.parametrize("rows", [0, 2])
def test_verdicts_have_one_dtype_whatever_the_rows(rows):
    columns = {
        "kind": ColumnNames(labels=("new", "used")),
        "two": ColumnNames(labels=("no", "yes")),
        "ill": ColumnNames(labels=("flu", "cold"), thresholds=(0.5, 0.5)),
    }

    def table(rows, value):
        outputs = {
            "kind": np.full((rows, 2), value, np.float32),
            "two": np.full((rows, 1), value, np.float32),
            "ill": np.full((rows, 2), value, np.float32),
        }
        return Prediction(outputs, "m", "1", columns=columns).to_pandas()

    usual = table(2, 0.25)
    assert usual["ill"].tolist() == [[], []]
    # No rows, or rows without an answer: pandas alone would take them for other things.
    without = table(rows, np.nan)
    assert without.dtypes.to_dict() == usual.dtypes.to_dict()
    assert pd.concat([usual, without]).dtypes.to_dict() == usual.dtypes.to_dict()


def test_pandas_makes_the_same_table_of_it_by_itself():
    columns = {"kind": ColumnNames(labels=("new", "used"))}
    outputs = {
        "kind": np.array([[0.25, 0.75], [np.nan, np.nan]], np.float32),
        "total": np.array([3, 4]),
        "map": np.arange(8).reshape(2, 2, 2),
    }
    for few in (outputs, {"total": outputs["total"]}):
        prediction = Prediction(few, "m", "1", columns=columns)
        table = prediction.to_pandas()
        pd.testing.assert_frame_equal(pd.DataFrame(prediction), table)
        assert [vars(row) for row in np.asarray(prediction)[:1]] == table[:1].to_dict("records")


def test_a_prediction_is_no_array_of_numbers(prediction):
    for make in (np.asarray, np.array):
        with pytest.raises(TypeError, match=r"take prediction\[name\], prediction.to_pandas\(\)"):
            make(prediction, np.float32)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"y": np.zeros((2, 1)), "z": np.zeros(3)}, "output 'z': expected a value for each of 2"),
        ({"y": np.zeros(())}, "output 'y': expected a value for each row, got shape []"),
        ({"a[0]": np.zeros(1), "a": np.zeros((1, 2))}, "got 'a[0]' twice"),
    ],
)
def test_outputs_that_make_no_table_are_reported(outputs, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        Prediction(outputs, "m", "1").table()
