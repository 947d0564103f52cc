"""One onnxruntime session: what it takes, what it refuses, what it leaves alone."""

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from support import onnx_files
from support.wire import texts

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.server.engine.session import Session, SessionError


def test_the_signature_has_datatypes_shapes_and_symbols(tmp_path: Path) -> None:
    session = Session(onnx_files.save(onnx_files.pair(), tmp_path / "pair.onnx"))

    assert session.inputs == tuple(
        TensorSpec(name, "FP32", (-1, 2), ("batch", None)) for name in ("a", "b")
    )
    assert [spec.name for spec in session.outputs] == ["total", "difference"]


def test_a_relative_folder_named_by_a_letter_leaves_the_reason_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reasons = set()
    for name in ("m", "o", "model", "elsewhere"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x.onnx").write_bytes(b"no model")
        for path in (Path(name, "x.onnx"), folder / "x.onnx"):
            with pytest.raises(SessionError) as error:
                Session(path)
            reasons.add(str(error.value).rpartition(" : ")[2])
    assert reasons == {"Load model from x.onnx failed:Protobuf parsing failed."}


def test_an_axis_without_a_name_is_free(tmp_path: Path) -> None:
    model = onnx_files.identity("INT8", [None, 4])

    (spec,) = Session(onnx_files.save(model, tmp_path / "m.onnx")).inputs

    assert (spec.shape, spec.symbols) == ((-1, 4), (None, None))


def test_the_files_metadata_is_read(tmp_path: Path) -> None:
    model = onnx_files.identity("INT8", [1], {"key": "Wert 😀", "empty": ""})

    session = Session(onnx_files.save(model, tmp_path / "m.onnx"))

    assert dict(session.metadata) == {"key": "Wert 😀", "empty": ""}


def test_outputs_come_in_the_order_asked(tmp_path: Path) -> None:
    session = Session(onnx_files.save(onnx_files.pair(), tmp_path / "pair.onnx"))
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 5]], np.float32)

    difference, total = session.run({"a": a, "b": b}, ["difference", "total"])

    assert difference.tolist() == (a - b).tolist()
    assert total.tolist() == (a + b).tolist()


@pytest.mark.parametrize("name", [name for name in DATATYPES if name != "BYTES"])
def test_a_fixed_run_answers_as_any_run(tmp_path: Path, name: str) -> None:
    datatype = DATATYPES[name].dtype
    session = Session(onnx_files.save(onnx_files.identity(name, ["n", 2]), tmp_path / "m.onnx"))
    first, *others = (np.array([[at, 0], [1, at % 2]], datatype) for at in range(4))
    fixed = session.fixed({"x": first}, {"y": session.run({"x": first}, ["y"])[0]})

    for x in others:
        (answer,) = fixed.run([x.tobytes()])

        assert answer == session.run({"x": x}, ["y"])[0].tobytes()
        assert fixed.feeds["x"].tolist() == x.tolist()
    assert fixed.shapes == [(2, 2)]


def test_a_fixed_run_keeps_the_order_of_inputs_and_outputs(tmp_path: Path) -> None:
    session = Session(onnx_files.save(onnx_files.pair(), tmp_path / "pair.onnx"))
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 5]], np.float32)
    names = ["difference", "total"]
    answers = dict(zip(names, session.run({"a": a, "b": b}, names), strict=True))
    fixed = session.fixed({"a": a, "b": b}, answers)

    difference, total = fixed.run([b.tobytes(), a.tobytes()])

    assert difference == (b - a).tobytes()
    assert total == (a + b).tobytes()


def test_text_goes_in_as_bytes_and_comes_out_as_str(tmp_path: Path) -> None:
    model = onnx_files.identity("BYTES", ["n"])
    session = Session(onnx_files.save(model, tmp_path / "m.onnx"))

    (y,) = session.run({"x": texts(b"", "größer".encode(), b"a\0b")}, ["y"])

    assert y.tolist() == ["", "größer", "a\0b"]


def test_text_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    model = onnx_files.identity("BYTES", ["n"])
    session = Session(onnx_files.save(model, tmp_path / "m.onnx"))

    with pytest.raises(TensorError, match=r"input 'x': .*UTF-8"):
        session.run({"x": texts(b"good", b"\xff")}, ["y"])


def test_a_sequence_is_refused_by_its_name(tmp_path: Path) -> None:
    path = onnx_files.save(onnx_files.sequence(), tmp_path / "m.onnx")

    with pytest.raises(SessionError, match=r"output 'probabilities' .*seq\(tensor\(float\)\)"):
        Session(path)


def test_an_input_of_no_datatype_is_refused_by_its_name(tmp_path: Path) -> None:
    path = onnx_files.save(onnx_files.identity("BF16", [1]), tmp_path / "m.onnx")

    with pytest.raises(SessionError, match=r"input 'x' .*tensor\(bfloat16\)"):
        Session(path)


def broken(tmp_path: Path) -> dict[str, Path]:
    unknown_operator = onnx_files.build(
        [helper.make_node("Nothing", ["x"], ["y"], name="odd")],
        [onnx_files.tensor("x", "FP32", [1])],
        [onnx_files.tensor("y", "FP32", [1])],
    )
    later_opset = onnx_files.linear()
    later_opset.opset_import[0].version = 999
    escaping = onnx_files.without_its_weights()
    escaping.graph.initializer[0].external_data[0].value = "../weights.bin"
    assert escaping.graph.initializer[0].data_location == TensorProto.EXTERNAL
    models = {
        "unknown operator": unknown_operator,
        "later opset": later_opset,
        "no weights": onnx_files.without_its_weights(),
        "weights elsewhere": escaping,
    }
    paths = {
        name: onnx_files.save(model, tmp_path / name / "model.onnx")
        for name, model in models.items()
    }
    whole = onnx_files.linear().SerializeToString()
    for name, content in {
        "empty": b"",
        "text": b"no model",
        "cut": whole[: len(whole) // 2],
    }.items():
        paths[name] = tmp_path / f"{name}.onnx"
        paths[name].write_bytes(content)
    paths["missing"] = tmp_path / "missing.onnx"
    return paths


@pytest.mark.parametrize(
    "fault",
    [
        "unknown operator",
        "later opset",
        "no weights",
        "weights elsewhere",
        "empty",
        "text",
        "cut",
        "missing",
    ],
)
def test_a_broken_file_is_refused_without_a_path(tmp_path: Path, fault: str) -> None:
    with pytest.raises(SessionError) as caught:
        Session(broken(tmp_path)[fault])

    assert len(str(caught.value)) > 20
    for secret in (str(tmp_path), "onnxruntime_src", ".cc:", ".h:"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["look_up", ""])
def test_a_failing_run_names_its_node_and_no_path(tmp_path: Path, name: str) -> None:
    model = onnx_files.pick()
    model.graph.node[0].name = name
    session = Session(onnx_files.save(model, tmp_path / "m.onnx"))

    with pytest.raises(SessionError, match=rf"node '{name}' \(Gather\)"):
        session.run({"index": np.array([99])}, ["y"])


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = onnx_files.save(onnx_files.without_its_weights(), tmp_path / "m.onnx")
    (tmp_path / "weights.bin").write_bytes(onnx_files.W.tobytes())

    (y,) = Session(path).run({"x": np.ones((1, 3), np.float32)}, ["y"])

    assert y.tolist() == (onnx_files.W.sum(axis=1) + onnx_files.B)[None].tolist()


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_sessions_start_no_threads(tmp_path: Path) -> None:
    path = onnx_files.save(onnx_files.linear(), tmp_path / "m.onnx")
    x = {"x": np.ones((1000, 3), np.float32)}
    Session(path).run(x, ["y"])
    before = threads()

    sessions = [Session(path) for _ in range(8)]
    for session in sessions:
        session.run(x, ["y"])

    assert threads() <= before
