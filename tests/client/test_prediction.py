import numpy as np
import pytest

from forwardpass.client import Prediction


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
