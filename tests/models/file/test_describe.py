"""Names for the columns of a file of any producer."""

import numpy as np
import pytest
from support import onnx_files

from forwardpass.models import NetworkError
from forwardpass.models.file.describe import describe
from forwardpass.proto import metadata
from forwardpass.proto.metadata import ColumnNames


def texts(model) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def test_names_are_written_and_the_graph_stays_as_it_is() -> None:
    model = onnx_files.linear({"theirs": "kept"})

    described = describe(
        model,
        inputs={"x": {"labels": ("a", "b", "c")}},
        outputs={"y": {"labels": ("no", "yes"), "thresholds": (0.5, 0.25)}},
    )

    assert described.graph == model.graph
    found = texts(described)
    assert found["theirs"] == "kept"
    assert metadata.load_columns(metadata.INPUTS, found[metadata.INPUTS]) == {
        "x": ColumnNames(labels=("a", "b", "c"))
    }
    assert metadata.load_columns(metadata.OUTPUTS, found[metadata.OUTPUTS]) == {
        "y": ColumnNames(labels=("no", "yes"), thresholds=(0.5, 0.25))
    }
    assert texts(model) == {"theirs": "kept"}


def test_what_is_not_given_stays() -> None:
    model = onnx_files.linear({metadata.OUTPUTS: '{"y":{"units":["m","kg"],"labels":["a","b"]}}'})

    found = texts(describe(model, outputs={"y": {"labels": ("c", "d")}}))

    assert found[metadata.OUTPUTS] == '{"y":{"labels":["c","d"],"units":["m","kg"]}}'


def test_samples_are_left_out_where_that_is_said_alone() -> None:
    x = np.ones((1, 3), np.float32)
    samples = metadata.Samples({"x": x}, {"y": x[:, :2]}, {"y": 1e-6}).dump()
    model = onnx_files.linear({metadata.SAMPLES: samples, metadata.LAYERS: "[]"})

    assert texts(describe(model)) == texts(model)
    assert texts(describe(model, drop_samples=True)) == {metadata.LAYERS: "[]"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"outputs": {"z": {"labels": ("a", "b")}}}, "outputs: expected some of 'y', got 'z'"),
        ({"inputs": {"W": {"labels": ("a", "b", "c")}}}, "inputs: expected some of 'x', got 'W'"),
        ({"outputs": {"y": {"labels": ("a",)}}}, "labels of 'y': expected 2, one for each column"),
        ({"outputs": {"y": {"thresholds": (1.0,)}}}, "thresholds of 'y': expected 2"),
    ],
)
def test_what_does_not_fit_is_refused(given, says: str) -> None:
    with pytest.raises(NetworkError) as refused:
        describe(onnx_files.linear(), **given)

    assert says in str(refused.value)


def test_a_width_that_is_not_known_takes_any_number() -> None:
    model = onnx_files.identity("FP32", ["n", None])

    describe(model, outputs={"y": {"labels": ("a", "b", "c")}})
