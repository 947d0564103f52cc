import copy
import pickle
import re

import numpy as np
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


def labelled(**outputs):
    columns = {"kind": KINDS, "ill": ILLNESSES, "price": ColumnNames(units=("EUR",))}
    arrays = {name: np.asarray(values, np.float32) for name, values in outputs.items()}
    return Prediction(arrays, "m", "1", columns=columns)


def test_the_label_of_a_row_is_that_of_its_largest_column():
    rows = labelled(kind=[[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])
    assert rows.label("kind") == ["used", "new"]
    assert rows.label() == ["used", "new"]
    assert labelled(kind=[0.1, 0.2, 0.7]).label() == "wreck"
    assert labelled(kind=np.zeros((0, 3))).label() == []


def test_the_labels_of_a_row_are_those_above_their_thresholds():
    rows = labelled(ill=[[0.6, 0.3], [0.6, 0.2], [0.1, 0.1]])
    assert rows.labels("ill") == [["flu", "cold"], ["flu"], []]
    assert rows.labels() == rows.labels("ill")
    assert labelled(ill=[0.4, 0.3]).labels() == ["cold"]


def test_a_column_that_equals_its_threshold_is_not_above_it():
    assert labelled(ill=[0.5, 0.25]).labels() == []
    # float32's nearest to 0.3 is above float64's.
    assert labelled(ill=[0.3, 0.0]).labels(thresholds=0.3) == []


def test_thresholds_of_the_caller_are_over_those_of_the_file():
    rows = labelled(ill=[[0.6, 0.3]])
    assert rows.labels(thresholds=0.2) == [["flu", "cold"]]
    assert rows.labels(thresholds=[0.9, 0.2]) == [["cold"]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: p.label(), "output: expected its name, as 2 of the outputs have labels"),
        (lambda p: p.label("price"), "output 'price': expected a label for each column of [1]"),
        (lambda p: p.labels("kind"), "output 'kind': expected one threshold, or one for each of"),
        (lambda p: p.labels("ill", thresholds=[1, 2, 3]), "its 2 columns, got [3]"),
    ],
)
def test_labels_that_are_not_there_are_an_error(call, text):
    prediction = labelled(kind=[[0, 0, 1]], ill=[[0, 1]], price=[[5]])
    with pytest.raises(ValueError, match=re.escape(text)):
        call(prediction)
    with pytest.raises(KeyError, match="no output 'other'"):
        prediction.label("other")
