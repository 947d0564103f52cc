"""A model's file as a function of tables."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from batch.rows import ANSWERS, FEATURES, frame
from support import onnx_files

from forwardpass.batch import Scorer, opening
from forwardpass.client import InvalidInputError, ModelFileError, load
from forwardpass.models import Categorical, Dense, Input, Network, Output, publish
from forwardpass.proto.metadata import SAMPLES


def batch(count: int = 3, **columns: pa.Array) -> pa.RecordBatch:
    table = frame(count)
    for name, column in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, column)
    return table.combine_chunks().to_batches()[0]


def test_schema_names_and_units_come_from_the_file(file: Path) -> None:
    scorer = Scorer(file)
    assert scorer.columns == FEATURES
    assert scorer.schema.names == [*ANSWERS]
    assert [str(each) for each in scorer.schema.types] == ["float", "float", "string", "float"]
    assert scorer.schema.field("height.tall").metadata == {b"unit": b"m"}


def test_labels_and_outputs_may_be_left_out(file: Path) -> None:
    assert Scorer(file, labels=False).schema.names == ["risk.low", "risk.high", "height.tall"]
    scorer = Scorer(file, outputs=["height"])
    assert scorer.score(batch()).schema.names == ["height.tall"]
    with pytest.raises(ValueError, match=r"expected some of 'risk', 'height', got \['hight'\]"):
        Scorer(file, outputs=["hight"])


@pytest.mark.parametrize("kind", [pa.float64(), pa.float16(), pa.int8(), pa.int64(), pa.bool_()])
def test_columns_are_cast_as_the_client_does(file: Path, kind: pa.DataType) -> None:
    values = [1, 0, 1]
    answers = Scorer(file).score(batch(width=pa.array(values).cast(kind)))
    x = np.column_stack([frame(3)[name].to_numpy() for name in FEATURES])
    x[:, FEATURES.index("width")] = values
    want = load(file).predict("plants", x)["risk"]
    assert answers["risk.high"].to_numpy().tobytes() == want[:, 1].tobytes()


def test_nulls_are_refused_by_row_and_column(file: Path) -> None:
    holes = batch(width=pa.array([1.0, None, 2.0], pa.float32()))
    with pytest.raises(InvalidInputError, match=r"feature 'width'.*a missing one in row 1"):
        Scorer(file).score(holes)
    sent = Scorer(file, missing="nan").score(holes)
    assert np.isnan(sent["risk.low"].to_numpy()).tolist() == [False, True, False]
    assert sent["risk"].null_count == 1


def test_nan_is_a_value_which_gets_no_verdict(file: Path) -> None:
    answers = Scorer(file).score(batch(width=pa.array([1.0, np.nan, 2.0], pa.float32())))
    assert np.isnan(answers["height.tall"].to_numpy()).tolist() == [False, True, False]
    assert answers["risk"][1].as_py() is None


def test_values_that_do_not_fit_are_refused_by_the_name_of_their_column(file: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"feature 'width'.*magnitude.*1e\+300"):
        Scorer(file).score(batch(width=pa.array([1.0, 1e300, 2.0])))
    with pytest.raises(InvalidInputError, match=r"feature 'width'.*'x'"):
        Scorer(file).score(batch(width=pa.array(["x", "y", "z"])))
    with pytest.raises(InvalidInputError, match="none for 'width'"):
        Scorer(file).score(batch().drop_columns(["width"]))
    twice = batch().append_column("width", pa.array([1.0, 2.0, 3.0]))
    with pytest.raises(InvalidInputError, match="more than one for 'width'"):
        Scorer(file).score(twice)


def test_a_row_far_behind_is_found(file: Path) -> None:
    holes = pa.array([0.0] * 9_000 + [None], pa.float32())
    with pytest.raises(InvalidInputError, match="in row 808") as raised:
        Scorer(file).score(batch(9_001, width=holes))
    assert raised.value.__notes__ == ["rows are counted from row 8192 of the batch"]


def test_columns_are_kept_in_front(file: Path) -> None:
    answers = Scorer(file).score(batch(), ["note", "id"])
    assert answers.schema.names == ["note", "id", *ANSWERS]
    assert answers["id"].to_pylist() == [0, 1, 2]
    for keep in (["weight"], ["id", "id"]):
        with pytest.raises(ValueError, match=f"keep: expected names.*got '{keep[-1]}'"):
            Scorer(file).score(batch(), keep)
    with pytest.raises(ValueError, match="got 'risk'"):
        Scorer(file).score(batch().rename_columns(["id", "risk", *FEATURES[::-1]]), ["risk"])


def test_a_file_without_names_takes_those_given(tmp_path: Path) -> None:
    plain = Network.define(Input(2), [Dense("y", 1)], [Output("y", "y")], name="plain")
    path = publish(plain, tmp_path).path
    with pytest.raises(ValueError, match=r"expected names for the features.*pass Scorer"):
        _ = Scorer(path).columns
    rows = pa.record_batch({"b": [1.0, 2.0], "a": [3.0, 4.0]})
    answers = Scorer(path, columns=["a", "b"]).score(rows)
    want = load(path).predict("plain", [[3, 1], [4, 2]])["y"]
    assert answers["y"].to_numpy().tobytes() == want.tobytes()
    with pytest.raises(ValueError, match="expected a name for each feature"):
        Scorer(path, columns=["a"])


def test_a_model_that_does_not_answer_row_by_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    onnx_files.save(onnx_files.identity("FP32", [2, 3]), path)
    with pytest.raises(ValueError, match="expected a row of one length for each row"):
        Scorer(path)


LOANS = Network.define(
    [
        Input(2, "numbers", ("age", "income"), fill={"age": 38}),
        Categorical("purpose", ("car", "house", "other"), unknown="other"),
        Categorical("rooms", (1, 2, 3, 4), missing=2),
    ],
    [Dense("hidden", 8, "tanh"), Dense("risk", 1, "sigmoid")],
    name="loans",
)


def test_columns_of_several_inputs_go_by_name(tmp_path: Path) -> None:
    scorer = Scorer(publish(LOANS, tmp_path).path)
    assert scorer.columns == ("age", "income", "purpose", "rooms")
    rows = {
        "rooms": [3, 1, None],
        "income": [4.0, 2.5, 3.1],
        "purpose": ["car", "boat", "house"],
        "age": [61.0, None, 35.0],
    }
    want = LOANS(rows)["risk"][:, 0]
    for rooms in (pa.int64(), pa.int8()):
        for purpose in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
            batch = pa.record_batch(rows).set_column(0, "rooms", pa.array(rows["rooms"], rooms))
            batch = batch.set_column(2, "purpose", pa.array(rows["purpose"]).cast(purpose))
            answers = scorer.score(batch)
            np.testing.assert_allclose(answers["risk"].to_numpy(), want, rtol=1e-6)


def test_a_missing_number_is_refused_unless_the_model_fills_it_in(tmp_path: Path) -> None:
    scorer = Scorer(publish(LOANS, tmp_path).path)
    with pytest.raises(InvalidInputError, match=r"feature 'income'.*a missing one in row 1"):
        scorer.score(loans(income=[4.0, None]))
    sent = Scorer(publish(LOANS, tmp_path).path, missing="nan").score(loans(income=[4.0, None]))
    assert np.isnan(sent["risk"].to_numpy()).tolist() == [False, True]


def loans(**columns: list[Any]) -> pa.RecordBatch:
    rows = {"age": [1.0, 2.0], "income": [3.0, 4.0], "purpose": ["car", "car"], "rooms": [1, 2]}
    return pa.record_batch(rows | columns)


# The file travels.


def test_it_pickles_with_its_file(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "plants.onnx"
    copy.write_bytes(file.read_bytes())
    there = pickle.dumps(Scorer(copy))
    copy.unlink()
    program = (
        "import pickle, sys, pyarrow as pa; scorer = pickle.load(sys.stdin.buffer);"
        "rows = pa.record_batch({name: [1.0] for name in scorer.columns});"
        "print(scorer.name, scorer.score(rows)['risk.low'][0].as_py())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=there, capture_output=True, check=True
    )
    want = load(file).predict("plants", np.ones((1, 4)))["risk"][0, 0]
    assert done.stdout.decode().split() == ["plants", str(float(want))]


def test_bytes_are_a_file(file: Path) -> None:
    assert Scorer(file.read_bytes()).score(batch()).equals(Scorer(file).score(batch()))
    with pytest.raises(ValueError, match="ship: expected True"):
        Scorer(file.read_bytes(), ship=False)


@pytest.mark.usefixtures("fresh")
def test_a_worker_with_another_file_at_the_path_refuses_it(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "plants.onnx"
    path.write_bytes(file.read_bytes())
    scorer = pickle.dumps(Scorer(path, ship=False))
    assert len(scorer) < len(path.read_bytes()) / 2
    pickle.loads(scorer).score(batch())
    other = Network.define(
        Input(4, features=FEATURES), [Dense("y", 1)], [Output("y", "y")], name="plants"
    )
    path.write_bytes(publish(other, tmp_path).path.read_bytes())
    opening._opened.clear()
    with pytest.raises(ModelFileError, match="expected the file with SHA-256"):
        pickle.loads(scorer).score(batch())


@pytest.mark.usefixtures("fresh")
def test_a_file_that_answers_its_samples_wrong_is_refused(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            changed = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
            weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    path = tmp_path / "plants.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match=r"one with a wrong output '.*' at .* of its samples"):
        Scorer(path)
    (text,) = [each for each in model.metadata_props if each.key == SAMPLES]
    text.value = "{}"
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="samples do not run"):
        Scorer(path)


def test_nothing_is_imported_until_it_is_used() -> None:
    program = (
        "import sys, forwardpass.batch as batch; dir(batch);"
        "print({'pyarrow', 'polars', 'onnxruntime', 'forwardpass.client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"set()\n"
