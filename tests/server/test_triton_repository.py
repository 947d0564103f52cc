"""A Triton repository, served as it lies: what config.pbtxt says holds in every answer."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support import onnx_files, triton_models
from support.living import Served, called_all_the_time, serving
from support.versions import put, question
from support.wire import arrays, assert_same_bits, infer_request, texts

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.repository.version_policy import VersionPolicy

Code = grpc.StatusCode

IMAGE = """
name: "image"
platform: "onnxruntime_onnx"
max_batch_size: 4
default_model_filename: "net.onnx"
input { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: 12 reshape { shape: [ 3, 2, 2 ] } }
output {
  name: "scores" data_type: TYPE_FP32 dims: 12
  label_filename: "labels.txt" reshape { shape: [ 12, 1, 1 ] }
}
instance_group [ { kind: KIND_CPU } ]
model_warmup [ { name: "w" batch_size: 1 } ]
"""
LABELS = [f"label {number}" for number in range(12)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = triton_models.write_repository(tmp_path / "repository")
    onnx_files.save(triton_models.flattened_image(), root / "image" / "1" / "net.onnx")
    configure(root, "image", IMAGE)
    (root / "image" / "labels.txt").write_text("\n".join(LABELS), "utf-8-sig")
    return root


@pytest.fixture
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as served:
        yield served


def configure(root: Path, name: str, text: str) -> None:
    """Replace a model's configuration, by a rename."""
    fresh = root / name / ".config.pbtxt"
    fresh.write_text(text)
    os.replace(fresh, root / name / "config.pbtxt")


def config_of(served: Served, name: str) -> pb.ModelConfig:
    request = pb.ModelConfigRequest(name=name)
    return served.stub.call("ModelConfig", request, pb.ModelConfigResponse).config


def metadata_of(served: Served, name: str) -> pb.ModelMetadataResponse:
    request = pb.ModelMetadataRequest(name=name)
    return served.stub.call("ModelMetadata", request, pb.ModelMetadataResponse)


@pytest.mark.parametrize(
    ("name", "dtype"), [("simple", np.int32), ("simple_int8", np.int8), ("simple_string", object)]
)
def test_sums_and_differences_are_right(served: Served, name: str, dtype: Any) -> None:
    a, b = np.arange(32).reshape(2, 16), np.ones((2, 16), int)

    def sent(numbers: Any) -> Any:
        if dtype is object:
            return texts(*(str(n).encode() for n in numbers.ravel())).reshape(numbers.shape)
        return numbers.astype(dtype)

    got = arrays(served.stub.infer(infer_request(name, {"INPUT0": sent(a), "INPUT1": sent(b)})))

    assert list(got) == ["OUTPUT0", "OUTPUT1"]
    assert_same_bits(got["OUTPUT0"], sent(a + b))
    assert_same_bits(got["OUTPUT1"], sent(a - b))


def test_a_configuration_is_reported_as_it_was_written(served: Served) -> None:
    config = config_of(served, "image")

    assert (config.name, config.max_batch_size) == ("image", 4)
    assert config.default_model_filename == "net.onnx"
    (x,), (scores,) = config.input, config.output
    assert x.format == pb.ModelInput.FORMAT_NCHW
    assert (list(x.dims), list(x.reshape.shape)) == ([12], [3, 2, 2])
    assert (list(scores.dims), list(scores.reshape.shape)) == ([12], [12, 1, 1])
    assert scores.label_filename == "labels.txt"
    simple = config_of(served, "simple")
    assert simple.max_batch_size == 8
    assert [list(tensor.dims) for tensor in simple.input] == [[16], [16]]
    assert not simple.input[0].HasField("reshape")


def test_callers_see_the_shapes_of_the_configuration(served: Served) -> None:
    metadata = metadata_of(served, "image")

    assert [list(tensor.shape) for tensor in metadata.inputs] == [[-1, 12]]
    assert [list(tensor.shape) for tensor in metadata.outputs] == [[-1, 12]]
    for rows in (0, 1, 3, 9):
        x = np.arange(rows * 12, dtype=np.float32).reshape(rows, 12)
        assert_same_bits(arrays(served.stub.infer(infer_request("image", {"x": x})))["scores"], x)
    graphs = np.zeros((1, 3, 2, 2), np.float32)
    refusal = served.stub.refusal("ModelInfer", infer_request("image", {"x": graphs}))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert "[-1, 12]" in refusal.message


def test_reshaped_rows_of_calls_that_run_together_come_back_to_their_callers(root: Path) -> None:
    text = """
    max_batch_size: 64
    input { name: "x" data_type: TYPE_FP32 dims: [ 1, 2 ] reshape { shape: 2 } }
    output { name: "y" data_type: TYPE_FP32 dims: [ 2, 1 ] reshape { shape: 2 } }
    """
    configure(root, "m", text)
    with serving(root) as served, ThreadPoolExecutor(8) as pool:
        assert served.server.catalog.find("m").batching.max_rows > 1

        def call(number: int) -> None:
            rows = 1 + number % 3
            x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 1, 2) + number
            got = arrays(served.stub.infer(infer_request("m", {"x": x})))["y"]
            assert_same_bits(got, x.reshape(rows, 2, 1) + 1)

        list(pool.map(call, range(200)))


def test_texts_are_reshaped_too(repository: Path) -> None:
    text = """
    max_batch_size: 8
    input { name: "INPUT0" data_type: TYPE_STRING dims: [ 2, 2 ] reshape { shape: 4 } }
    output { name: "OUTPUT0" data_type: TYPE_STRING dims: -1 }
    """
    configure(repository, "simple_identity", text)
    x = texts(b"a", b"", b"c", b"d").reshape(1, 2, 2)
    with serving(repository) as served:
        got = arrays(served.stub.infer(infer_request("simple_identity", {"INPUT0": x})))

    assert_same_bits(got["OUTPUT0"], x.reshape(1, 4))


def test_labels_name_the_classes_and_are_published(served: Served) -> None:
    x = np.zeros((1, 12), np.float32)
    x[0, [3, 7]] = 2, 5
    request = infer_request("image", {"x": x}, outputs=["scores"])
    request.outputs[0].parameters["classification"].int64_param = 2

    got = arrays(served.stub.infer(request))["scores"]

    assert got.tolist() == [[b"5.000000:7:label 7", b"2.000000:3:label 3"]]
    assert '"labels":["label 0",' in metadata_of(served, "image").properties["forwardpass.outputs"]


def test_labels_that_are_too_few_name_what_they_can(repository: Path) -> None:
    (repository / "image" / "labels.txt").write_text("first\n")
    with serving(repository) as served:
        request = infer_request("image", {"x": np.ones((1, 12), np.float32)}, outputs=["scores"])
        request.outputs[0].parameters["classification"].int64_param = 2
        got = arrays(served.stub.infer(request))["scores"]

        assert got.tolist() == [[b"1.000000:0:first", b"1.000000:1"]]
        assert "forwardpass.outputs" not in metadata_of(served, "image").properties


def test_above_rank_two_labels_are_of_elements_but_a_files_two_classes_of_each_score(
    tmp_path: Path,
) -> None:
    metadata = {"forwardpass.outputs": '{"y":{"labels":["no","yes"]}}'}
    for name in ("by_file", "by_operator"):
        model = onnx_files.identity("FP32", ["n", 2, 1], metadata)
        onnx_files.save(model, tmp_path / name / "1" / "model.onnx")
    text = 'output { name: "y" label_filename: "labels.txt" }'
    (tmp_path / "by_operator" / "labels.txt").write_text("left\nright\n")
    configure(tmp_path, "by_operator", text)
    x = np.array([[[0.25], [0.75]]], np.float32)

    def classified(served: Served, name: str) -> Any:
        request = infer_request(name, {"x": x}, outputs=["y"])
        request.outputs[0].parameters["classification"].int64_param = 2
        return arrays(served.stub.infer(request))["y"].tolist()

    with serving(tmp_path) as served:
        assert classified(served, "by_file") == [[[b"0.250000:0:no"], [b"0.750000:1:yes"]]]
        assert classified(served, "by_operator") == [[b"0.750000:1:right", b"0.250000:0:left"]]


def test_two_labels_of_one_column_are_its_classes(tmp_path: Path) -> None:
    model = onnx_files.identity("FP32", ["n", 1])
    onnx_files.save(model, tmp_path / "risk" / "1" / "model.onnx")
    (tmp_path / "risk" / "labels.txt").write_text("ill\nwell\n")
    configure(tmp_path, "risk", 'output { name: "y" label_filename: "labels.txt" }')
    with serving(tmp_path) as served:
        request = infer_request("risk", {"x": np.array([[0.25]], np.float32)}, outputs=["y"])
        request.outputs[0].parameters["classification"].int64_param = 1

        assert arrays(served.stub.infer(request))["y"].tolist() == [[b"0.250000:0:ill"]]
        published = metadata_of(served, "risk").properties["forwardpass.outputs"]
        assert published == '{"y":{"labels":["ill","well"]}}'


def test_what_is_not_honored_is_logged_once(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), serving(repository) as served:
        put(repository, "simple", 2, triton_models.sum_and_difference("INT32").SerializeToString())
        served.until(lambda: served.server.catalog.versions("simple") == [1, 2])
        served.server.lifecycle.load("image")

    (line,) = [record.message for record in caplog.records if "not honored" in record.message]
    assert line == (
        "config.pbtxt of model 'image': fields that are not honored: instance_group, model_warmup"
    )


def test_a_policy_of_a_model_is_over_that_of_the_server(root: Path) -> None:
    for name in ("m", "other"):
        for version in (1, 2, 3):
            put(root, name, version, version)
    configure(root, "m", "version_policy { specific { versions: [ 1, 3 ] } }")
    with serving(root, versions=VersionPolicy(latest=1)) as served:
        catalog = served.server.catalog
        assert catalog.versions("m") == [1, 3]
        assert catalog.versions("other") == [3]
        assert list(config_of(served, "m").version_policy.specific.versions) == [1, 3]
        assert config_of(served, "other").version_policy.latest.num_versions == 1

        configure(root, "m", "version_policy { latest { num_versions: 2 } }")
        served.until(lambda: catalog.versions("m") == [2, 3])
        (root / "m" / "config.pbtxt").unlink()
        served.until(lambda: catalog.versions("m") == [3])


def test_a_configuration_that_changes_is_followed_without_a_failed_call(root: Path) -> None:
    with serving(root) as served, called_all_the_time(served) as answers:
        configure(root, "m", "max_batch_size: 3")
        served.until(lambda: config_of(served, "m").max_batch_size == 3)
        put(root, "m", 1, 5)
        served.until_answer((1, 5))
        configure(root, "m", "max_batch_size: 2")
        served.until(lambda: config_of(served, "m").max_batch_size == 2)

    assert answers == {(1, 1), (1, 5)}


def test_labels_that_change_are_followed(repository: Path) -> None:
    with serving(repository) as served:
        fresh = repository / "image" / ".labels.txt"
        fresh.write_text("\n".join(LABELS).upper())
        fresh.replace(repository / "image" / "labels.txt")

        served.until(
            lambda: "LABEL 0" in metadata_of(served, "image").properties["forwardpass.outputs"]
        )


def test_one_that_breaks_leaves_what_answered(root: Path) -> None:
    with serving(root) as served, called_all_the_time(served) as answers:
        configure(root, "m", "max_batch_size: 3\nmax_batch_size {")
        served.until(lambda: "config.pbtxt: line 2" in served.reason())
        configure(root, "m", "max_batch_size: 3")
        served.until(lambda: not served.reason())

    assert answers == {(1, 1)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_batch_size: {", "config.pbtxt: line 1: "),
        ('name: "other"', "expected 'm' as its folder, got 'other'"),
        ('backend: "python"', "got 'python'; only ONNX files are served"),
        ('input { name: "z" }', "input 'z': the graph has 'x'"),
        ('input { name: "x" data_type: TYPE_INT8 }', "input 'x': configured as INT8"),
        ('output { name: "y" dims: [ -1, 3 ] }', "output 'y': configured as [-1, 3]"),
        ("default_model_filename: 'net.onnx'", "expected net.onnx in the folder of the version"),
        ("output { name: 'y' label_filename: 'none.txt' }", "'none.txt' is not in the folder"),
    ],
)
def test_a_model_is_refused_for_its_configuration_and_no_other_is(
    root: Path, text: str, says: str
) -> None:
    put(root, "other", 1, 7)
    configure(root, "m", text)
    with serving(root) as served:
        assert says in served.reason()
        assert served.outcome() is Code.FAILED_PRECONDITION
        assert served.ask("other") == (1, 7)


def test_rows_of_a_run_stay_within_the_maximum(root: Path) -> None:
    configure(root, "m", "max_batch_size: 3")
    with serving(root) as served:
        model = served.server.catalog.find("m")
        assert model.batching.max_rows <= 3
        assert model.piece_rows <= 3
        x = np.arange(20, dtype=np.float32).reshape(10, 2)
        got = arrays(served.stub.infer(infer_request("m", {"x": x})))["y"]
        assert_same_bits(got, x + 1)
        request = pb.ModelStatisticsRequest(name="m")
        statistics = served.stub.call("ModelStatistics", request, pb.ModelStatisticsResponse)
        sizes = {batch.batch_size for batch in statistics.model_stats[0].batch_stats}
        assert max(sizes) <= 3


def test_a_fixed_length_of_the_configuration_holds(root: Path) -> None:
    configure(root, "m", 'input { name: "x" data_type: TYPE_FP32 dims: [ 1, 2 ] }')
    with serving(root) as served:
        assert served.ask() == (1, 1)
        request = question("m")
        request.inputs[0].shape[:] = [2, 2]
        request.raw_input_contents[0] *= 2
        refusal = served.stub.refusal("ModelInfer", request)
        assert refusal.code is Code.INVALID_ARGUMENT
        assert "axis 0 must be 1 long, not 2" in refusal.message


def test_a_server_may_be_called_as_programs_insist(root: Path) -> None:
    with serving(root, server_name="triton") as served:
        metadata = served.stub.call("ServerMetadata", b"", pb.ServerMetadataResponse)

    assert metadata.name == "triton"
