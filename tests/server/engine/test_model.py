"""A model file proves itself before it answers."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from support import onnx_files
from support.served import X, Y
from support.trials import bytes_of

from forwardpass.proto.metadata import (
    BATCH_INVARIANT,
    CONTENT,
    INPUTS,
    OUTPUTS,
    PREFIX,
    PROVENANCE,
    SAMPLES,
    SIGNATURE,
    Samples,
)
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind, QueueLimits
from forwardpass.server.errors import ModelFailedError


def load(tmp_path: Path, model: ModelProto, runners: int = 1) -> Model:
    path = onnx_files.save(model, tmp_path / "m.onnx")
    with bytes_of(path) as content:
        return Model("m", 3, path, content, model.graph, QueueLimits(runners=runners))


def reason(tmp_path: Path, model: ModelProto) -> str:
    """Why it fails to load."""
    with pytest.raises(ModelFailedError) as caught:
        load(tmp_path, model)
    assert (caught.value.model, caught.value.version) == ("m", 3)
    assert str(caught.value) == f"model 'm' version 3 failed: {caught.value.reason}"
    return caught.value.reason


def samples(
    x: NDArray[Any] = X,
    y: NDArray[Any] = Y,
    tolerance: float = 1e-6,
    inputs: str = "x",
    outputs: str = "y",
) -> dict[str, str]:
    """Metadata with samples for `linear`."""
    return {SAMPLES: Samples({inputs: x}, {outputs: y}, {outputs: tolerance}).dump()}


def changed(**fields: Any) -> dict[str, str]:
    """Samples with some fields of their JSON replaced."""
    return {SAMPLES: json.dumps(json.loads(samples()[SAMPLES]) | fields)}


def tensor(shape: Any, raw: Any) -> dict[str, Any]:
    return {"shape": shape, "raw": raw}


def test_right_samples_pass(tmp_path: Path) -> None:
    model = load(tmp_path, onnx_files.linear(samples()))

    assert list(model.inputs) == ["x"]
    assert list(model.outputs) == ["y"]


@pytest.mark.parametrize("offset", [0.9e-3, -0.9e-3])
def test_samples_within_their_tolerance_pass(tmp_path: Path, offset: float) -> None:
    load(tmp_path, onnx_files.linear(samples(y=Y + np.float32(offset), tolerance=1e-3)))


def test_a_wrong_answer_fails_with_what_was_expected_and_what_came(tmp_path: Path) -> None:
    y = Y.copy()
    y[1, 0] += 0.25

    why = reason(tmp_path, onnx_files.linear(samples(y=y, tolerance=1e-3)))

    for fragment in ("output 'y'", "[1, 0]", "2.75", "within 0.001", "got 2.5"):
        assert fragment in why


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (samples(y=np.full_like(Y, np.nan)), ["output 'y'", "[0, 0]", "nan"]),
        (samples(y=np.full_like(Y, np.inf)), ["output 'y'", "inf"]),
        (samples(tolerance=float("nan")), ["output 'y'", "nan"]),
        (samples(tolerance=-1.0), ["output 'y'", "-1"]),
        (samples(y=Y[:1]), ["output 'y'", "[1, 2]", "[2, 2]"]),
        (samples(y=Y[:, :1]), ["output 'y'", "[2, 1]", "[2, 2]"]),
        (samples(outputs="z"), ["'z'"]),
        (samples(inputs="z"), ["input 'x'"]),
        (samples(x=X[:, :2]), ["input 'x'", "[2, 2]", "[-1, 3]"]),
        (samples(x=X[0]), ["input 'x'", "[3]"]),
        (samples(y=Y.astype(np.int64)), ["output 'y'", "FP32", "INT64"]),
        (samples(y=np.full(Y.shape, b"1", object)), ["output 'y'", "FP32", "BYTES"]),
    ],
)
def test_samples_that_do_not_fit_the_graph_fail(
    tmp_path: Path, metadata: dict[str, str], says: list[str]
) -> None:
    why = reason(tmp_path, onnx_files.linear(metadata))

    for fragment in says:
        assert fragment in why


@pytest.mark.parametrize(
    "metadata",
    [
        {SAMPLES: ""},
        {SAMPLES: "{"},
        {SAMPLES: "[]"},
        {SAMPLES: "null"},
        {SAMPLES: "{}"},
        {SAMPLES: "[" * 100_000},
        changed(inputs=None),
        changed(outputs=[]),
        changed(tolerance={}),
        changed(tolerance={"y": "much"}),
        changed(tolerance={"y": 10**400}),
        changed(inputs={"x": tensor([2, 3], "no base64!")}),
        changed(inputs={"x": tensor([2, 3], "AAAA")}),
        changed(inputs={"x": tensor("23", 5)}),
        changed(inputs={"x": tensor([-1, -6], "A" * 32)}),
        changed(inputs={"x": tensor([0, 10**30], "")}),
        changed(inputs={"x": tensor([float("inf")], "")}),
        changed(inputs={"x": {}}),
    ],
    ids=lambda metadata: metadata[SAMPLES][:40],
)
def test_malformed_samples_fail(tmp_path: Path, metadata: dict[str, str]) -> None:
    assert SAMPLES in reason(tmp_path, onnx_files.linear(metadata))


def test_a_model_that_computes_nan_fails(tmp_path: Path) -> None:
    model = onnx_files.linear(samples())
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full_like(onnx_files.W, np.nan), "W")
    )

    assert "got nan" in reason(tmp_path, model)


def test_samples_of_text_fail(tmp_path: Path) -> None:
    model = onnx_files.build(
        [helper.make_node("Identity", ["names"], ["y"])],
        [onnx_files.tensor("x", "FP32", ["batch", 3])],
        [onnx_files.tensor("y", "BYTES", [2, 2])],
        constants={"names": np.array([["a", "b"], ["c", "d"]], dtype=object)},
        metadata=samples(),
    )

    assert "'y'" in reason(tmp_path, model)


def test_samples_for_another_datatype_fail(tmp_path: Path) -> None:
    reason(tmp_path, onnx_files.identity("FP64", ["batch", 3], samples(x=X, y=X)))


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [
        ("FP32", ["batch", 30]),
        ("FP16", [2, 3]),
        ("INT64", []),
        ("BYTES", ["n"]),
        ("BYTES", []),
        ("BOOL", [None, None, None, 2]),
        ("FP32", [0, 3]),
    ],
)
def test_a_model_without_samples_is_warmed_up(
    tmp_path: Path, datatype: str, shape: onnx_files.Shape
) -> None:
    load(tmp_path, onnx_files.identity(datatype, shape))


@pytest.mark.parametrize("width", [4, 5, 28])
def test_a_model_that_cannot_take_one_row_of_zeros_is_served_all_the_same(
    tmp_path: Path, width: int
) -> None:
    # Free axes say nothing of the lengths that a graph can take: this one folds.
    model = onnx_files.build(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [onnx_files.tensor("x", "FP32", ["n"])],
        [onnx_files.tensor("y", "FP32", ["m", width])],
        constants={"shape": np.array([-1, width])},
    )

    (y,) = load(tmp_path, model).session.run({"x": np.zeros(2 * width, np.float32)}, ["y"])

    assert y.shape == (2, width)


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_a_model_that_cannot_take_zeros_is_served_all_the_same(
    tmp_path: Path, operator: str
) -> None:
    model = onnx_files.build(
        [helper.make_node(operator, ["a", "b"], ["y"])],
        [onnx_files.tensor("a", "INT64", ["n"]), onnx_files.tensor("b", "INT64", ["n"])],
        [onnx_files.tensor("y", "INT64", ["n"])],
    )

    (y,) = load(tmp_path, model).session.run({"a": np.array([7]), "b": np.array([9])}, ["y"])

    assert y.tolist() == [0 if operator == "Div" else 7]


def test_a_shape_that_no_machine_can_hold_fails(tmp_path: Path) -> None:
    reason(tmp_path, onnx_files.identity("FP32", [2**62, 2**62]))


def test_labels_are_those_of_the_file(tmp_path: Path) -> None:
    columns = {OUTPUTS: json.dumps({"y": {"labels": ["no", "yes"], "units": ["1", "1"]}})}

    assert load(tmp_path, onnx_files.linear(columns)).columns["y"].labels == ("no", "yes")
    assert load(tmp_path, onnx_files.linear()).columns == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"y": 5}', '{"y": {"labels": 5}}'])
def test_malformed_labels_fail(tmp_path: Path, text: str) -> None:
    assert OUTPUTS in reason(tmp_path, onnx_files.linear({OUTPUTS: text}))


@pytest.mark.parametrize(
    "columns",
    [
        {"labels": ["one"]},
        {"labels": ["one", "two", "three"]},
        {"labels": ["one", "two"], "thresholds": [0.5]},
        {"thresholds": [0.5, 0.5, 0.5]},
    ],
)
def test_labels_or_thresholds_of_another_number_than_columns_fail(
    tmp_path: Path, columns: dict[str, list[str | float]]
) -> None:
    # Classification would name the wrong column, or none.
    texts = {OUTPUTS: json.dumps({"y": columns})}

    assert "for the 2 columns of 'y'" in reason(tmp_path, onnx_files.linear(texts))


def test_thresholds_are_published_as_the_file_has_them(tmp_path: Path) -> None:
    text = '{"y":{"labels":["no","yes"],"thresholds":[0.5,0.25]}}'

    assert load(tmp_path, onnx_files.linear({OUTPUTS: text})).properties[OUTPUTS] == text


def test_properties_are_what_the_contract_has_but_the_samples(tmp_path: Path) -> None:
    theirs = {INPUTS: "{}", f"{PREFIX}later": "kept", "producer.key": "not ours"}

    model = load(tmp_path, onnx_files.linear(samples() | theirs))

    found_out = {BATCH_INVARIANT: "true", SIGNATURE: ANY, CONTENT: ANY}
    assert model.properties == {INPUTS: "{}", f"{PREFIX}later": "kept"} | found_out


def test_what_a_server_finds_out_is_not_taken_from_a_file(tmp_path: Path) -> None:
    found_out = {BATCH_INVARIANT: "false", SIGNATURE: "0", CONTENT: "0"}
    model = load(tmp_path, onnx_files.linear(found_out))

    assert model.properties[BATCH_INVARIANT] == "true"
    assert "0" not in model.properties.values()


def test_the_content_is_the_hash_of_the_file(tmp_path: Path) -> None:
    file = onnx_files.linear()
    model = load(tmp_path, file)

    assert model.properties[CONTENT] == sha256(file.SerializeToString()).hexdigest()


@pytest.mark.parametrize(
    ("metadata", "alike"),
    [
        ({PROVENANCE: '{"by":"another"}'}, True),
        ({INPUTS: '{"x":{"labels":["b","a"]}}'}, False),
        ({OUTPUTS: '{"y":{"labels":["no","yes"]}}'}, False),
        ({OUTPUTS: '{"y":{"thresholds":[0.5,0.25]}}'}, False),
    ],
    ids=["provenance", "features", "labels", "thresholds"],
)
def test_the_signature_changes_with_what_requests_and_answers_mean(
    tmp_path: Path, metadata: dict[str, str], alike: bool
) -> None:
    plain = load(tmp_path, onnx_files.linear()).properties
    other = load(tmp_path, onnx_files.linear(metadata)).properties

    assert (plain[SIGNATURE] == other[SIGNATURE]) is alike
    assert plain[CONTENT] != other[CONTENT]


def test_runs_of_all_sizes_from_several_threads_have_the_bits_of_the_session(
    tmp_path: Path,
) -> None:
    model = load(tmp_path, onnx_files.linear(), runners=4)
    kind = Kind(("y",), (X.shape[1:],), by_rows=True)
    # More sizes than are kept, each more than once.
    sizes = [*range(1, 50), *range(1, 50), *[1, 2] * 200]
    inputs = [np.resize(X + at, (rows, *X.shape[1:])) for at, rows in enumerate(sizes)]

    def answer(x: NDArray[np.float32]) -> bytes:
        job = Job(kind, [x.tobytes()], len(x))
        model.queue.run([job])
        assert job.error is None
        assert list(job.shapes) == [(len(x), 2)]
        return job.answers[0]

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(answer, inputs))

    for x, got in zip(inputs, answers, strict=True):
        assert got == model.session.run({"x": x}, ["y"])[0].tobytes()


WITHIN_3_GIB = """
import resource, sys
from pathlib import Path
import onnx
from forwardpass.server.engine.model import Model
from forwardpass.server.guard.files import read_model

resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)
path = Path(sys.argv[1])
Model("m", 1, path, read_model(path, None, 2**20), onnx.load(path).graph)
"""


def test_rows_of_megabytes_are_not_tried_by_the_gigabyte(tmp_path: Path) -> None:
    # 4 MB a row: as in a network over pictures.
    path = onnx_files.save(onnx_files.identity("FP32", ["batch", 10**6]), tmp_path / "m.onnx")

    subprocess.run([sys.executable, "-c", WITHIN_3_GIB, path], check=True, timeout=60)


def test_an_input_of_unknown_rank_is_not_taken_for_a_scalar(tmp_path: Path) -> None:
    model = onnx_files.identity("FP32", [])
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")

    assert "input 'x'" in reason(tmp_path, model)
