"""What a config.pbtxt may say, what is honored of it, and what it is refused for."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardpass.server.engine.terms import TensorTerms
from forwardpass.server.repository.triton_config import (
    ConfigFileError,
    TritonConfig,
    parse_config,
    read_config,
)
from forwardpass.server.repository.version_policy import VersionPolicy

FULL = """
# A comment with a name: "x" { in it.
name: "m"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
max_batch_size: 8
default_model_filename: "net.onnx"
version_policy: { specific: { versions: [3, 1] } }
input [
  { name: "image", data_type: TYPE_FP32, format: FORMAT_NCHW, dims: [ 3, -1 ] },
  { name: "flags" data_type: TYPE_BOOL dims: 1 reshape { shape: [ ] } optional: true }
]
output < name: "text { dims: [ 1 ] }" data_type: TYPE_STRING dims: [ 2 ] label_filename: "l.txt" >
instance_group [ { kind: KIND_GPU, count: 2, gpus: [ 0, 1 ] } ]
dynamic_batching { preferred_batch_size: [ 4 ] }
parameters: { key: "name" value: { string_value: "input" } }
optimization { graph { level: 1 } }
"""


def parse(text: str | bytes) -> TritonConfig:
    return parse_config(text if isinstance(text, bytes) else text.encode(), "m")


def test_what_is_honored_is_read() -> None:
    config = parse(FULL)

    assert config.policy == VersionPolicy(named=(1, 3))
    assert config.model_file == "net.onnx"
    assert config.terms.max_rows == 8
    assert config.terms.inputs == {
        "image": TensorTerms("FP32", (-1, 3, -1)),
        "flags": TensorTerms("BOOL", (-1, 1), (-1,)),
    }
    assert config.terms.outputs == {"text { dims: [ 1 ] }": TensorTerms("BYTES", (-1, 2))}
    assert config.formats == {"image": "FORMAT_NCHW"}
    assert config.label_files == (("text { dims: [ 1 ] }", "l.txt"),)


def test_every_other_field_is_named_once_by_its_path() -> None:
    assert parse(FULL).ignored == (
        "input.optional",
        "instance_group",
        "dynamic_batching",
        "parameters",
        "optimization",
    )


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("", ()),
        ('nmae: "m"', ("nmae",)),
        ("later { later { name: 1 } }", ("later",)),
        (
            "version_policy { latest { num_versions: 1 later: 2 } }",
            ("version_policy.latest.later",),
        ),
        (
            'input { name: "x" } input [ { dims: 1 kind: NEW }, { name: "z" kind { } } ]',
            ("input.kind",),
        ),
        ("model_warmup [{ inputs { key: 'a' value { zero_data: true } } }]", ("model_warmup",)),
    ],
)
def test_unknown_fields_are_named_too(text: str, ignored: tuple[str, ...]) -> None:
    assert parse(text).ignored == ignored


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", None),
        ("version_policy { all { } }", VersionPolicy()),
        ("version_policy { latest { num_versions: 2 } }", VersionPolicy(latest=2)),
        ("version_policy { latest { } }", VersionPolicy(latest=1)),
        ("version_policy { specific { versions: 4 versions: 2 } }", VersionPolicy(named=(2, 4))),
    ],
)
def test_a_version_policy_is_one_of_three(text: str, policy: VersionPolicy | None) -> None:
    assert parse(text).policy == policy


def test_without_max_batch_size_dims_are_the_whole_shape() -> None:
    text = 'input { name: "x" data_type: TYPE_INT64 dims: [ -1, 3 ] } output { name: "y" }'

    terms = parse(text).terms

    assert terms.max_rows is None
    assert terms.inputs == {"x": TensorTerms("INT64", (-1, 3))}
    assert terms.outputs == {"y": TensorTerms()}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\nmax_batch_size: many", "line 3: "),
        ("\nname: 'm", "line 2: "),
        ("input [ { dims: [ 1 }", "line 1: "),
        ("max_batch_size: 1\nmax_batch_size: 2", "line 2: "),
        ("max_batch_size: 9999999999", "line 1: "),
        ("input { data_type: TYPE_FP8 }", "TYPE_FP8"),
        ("max_batch_size: -1", "max_batch_size: expected 0 or more, got -1"),
        ('name: "other"', "name: expected 'm' as its folder, got 'other'"),
        ('platform: "tensorflow_graphdef"', "'tensorflow_graphdef'"),
        ('backend: "python"', "'python'"),
        ('platform: "ensemble"', "'ensemble'"),
        ('default_model_filename: "../x.onnx"', "'../x.onnx'"),
        ('default_model_filename: ".."', "'..'"),
        ("version_policy { specific { } }", "versions of at least 1"),
        ("version_policy { specific { versions: 0 } }", "versions of at least 1"),
        ('input { name: "x" dims: 0 }', "dims of at least 1"),
        ('output { name: "x" dims: -2 }', "dims of at least 1"),
        ('input { name: "x" reshape { } }', "expected dims beside reshape"),
        ('input { name: "x" } input { name: "x" }', "input 'x': expected once"),
        (b"name: '\xff'", "is not the text"),
        (b"later { " * 8000, "config.pbtxt"),
    ],
)
def test_a_configuration_that_cannot_be_honored_is_rejected_with_its_field(
    text: str | bytes, says: str
) -> None:
    with pytest.raises(ConfigFileError) as caught:
        parse(text)

    assert str(caught.value).startswith("config.pbtxt: ")
    assert says in str(caught.value)


@given(st.text() | st.lists(st.sampled_from(FULL.split())).map(" ".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigFileError):
        parse(text)


def write(folder: Path, text: str, labels: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(text)
    if labels is not None:
        (folder / "labels.txt").write_bytes(labels)
    return folder


LABELED = 'output { name: "y" label_filename: "labels.txt" }'


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\r\nbig dog", ("cat", "big dog")),
        (b"cat\n\ngro\xc3\x9f\n", ("cat", "", "groß")),
        (b"", ()),
    ],
)
def test_a_label_file_has_a_label_a_line(
    tmp_path: Path, content: bytes, labels: tuple[str, ...]
) -> None:
    config = read_config(write(tmp_path / "m", LABELED, content), tmp_path)

    assert config is not None
    assert config.terms.labels == {"y": labels}


def test_without_a_file_there_is_no_configuration(tmp_path: Path) -> None:
    assert read_config(tmp_path, tmp_path) is None


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "output 'y': label_filename 'labels.txt' is not in the folder"),
        (b"\xff", "'labels.txt' is not UTF-8"),
        (b"x\n" * 2**19 + b"x", "labels.txt: expected at most 1048576 bytes"),
    ],
)
def test_labels_that_cannot_be_read_are_a_fault(
    tmp_path: Path, labels: bytes | None, says: str
) -> None:
    folder = write(tmp_path / "m", LABELED, labels)

    with pytest.raises(ConfigFileError) as caught:
        read_config(folder, tmp_path)

    assert says in str(caught.value)


def test_a_file_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "#" * (2**16 + 1))

    with pytest.raises(ConfigFileError, match="at most 65536 bytes"):
        read_config(folder, tmp_path)


@pytest.mark.parametrize("name", ["config.pbtxt", "labels.txt"])
def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path, name: str) -> None:
    root = tmp_path / "served"
    folder = write(root / "m", LABELED, b"cat\n")
    (tmp_path / "secret").write_text("marked")
    (folder / name).unlink()
    os.symlink("../../secret", folder / name)

    with pytest.raises(ConfigFileError, match="leads out of the folder") as caught:
        read_config(folder, root)

    assert "marked" not in str(caught.value)


def test_a_label_file_outside_the_repository_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("marked")
    folder = write(tmp_path / "served" / "m", LABELED.replace("labels.txt", "../../secret"))

    with pytest.raises(ConfigFileError, match="leads out of the folder"):
        read_config(folder, tmp_path / "served")


def test_a_fifo_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.pbtxt")

    config = read_config(tmp_path, tmp_path)

    assert config == TritonConfig()
