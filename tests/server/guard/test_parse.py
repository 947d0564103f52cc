"""Large files are parsed without their weights, and say all the same."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.messages import field
from support.onnx_files import build, save, tensor
from support.trials import bytes_of

from forwardpass.server.engine.session import Session
from forwardpass.server.guard import Checked, GuardError, Limits, check_file
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.guard.parse import parse, raw_data
from forwardpass.server.guard.structure import all_tensors

ROWS, WIDTH = 400, 300
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((ROWS, WIDTH)).astype(np.float32)
"""480 kB: a file with them is a large one."""


def large(*, lists: bool = False) -> ModelProto:
    """Weights as an initializer and in a node, and constants that are short."""
    other = numpy_helper.from_array(WEIGHTS.astype(np.float64) * 2, "other")
    model = build(
        [
            helper.make_node("Gemm", ["x", "W", "b"], ["h"]),
            helper.make_node("Constant", [], ["U64"], value=other),
            helper.make_node("Cast", ["U64"], ["U"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["h", "U"], ["y"], transB=1),
        ],
        [tensor("x", "FP32", ["n", ROWS])],
        [tensor("y", "FP32", ["n", ROWS])],
        constants={"W": WEIGHTS, "b": np.ones(WIDTH, np.float32)},
    )
    if lists:
        for each in (model.graph.initializer[0], model.graph.node[1].attribute[0].t):
            values = numpy_helper.to_array(each).ravel().tolist()
            each.ClearField("raw_data")
            (each.float_data if each.data_type == TensorProto.FLOAT else each.double_data).extend(
                values
            )
    return model


def check(model: ModelProto | bytes, folder: Path, **limits: Any) -> Checked:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return check_file(path, root=folder, limits=Limits(**limits))


@pytest.mark.parametrize("lists", [False, True], ids=["raw", "lists"])
def test_all_is_parsed_but_the_values_of_large_tensors_and_those_are_found(
    lists: bool, tmp_path: Path
) -> None:
    model = large(lists=lists)
    content = bytes_of(save(model, tmp_path / "model.onnx"))

    parsed = parse(content)

    assert parsed.ByteSize() < 3000
    weights, bias = parsed.graph.initializer
    other = parsed.graph.node[1].attribute[0].t
    for found, expected in ((weights, WEIGHTS), (other, WEIGHTS.astype(np.float64) * 2)):
        raw = raw_data(found, content)
        assert raw is not None
        assert bytes(raw) == expected.tobytes()
        # What is left is what the file says.
        found.ClearField("external_data")
    assert bias == model.graph.initializer[1]
    for whole in (model.graph.initializer[0], model.graph.node[1].attribute[0].t):
        for name in ("raw_data", "float_data", "double_data"):
            whole.ClearField(name)
    assert parsed == model


@pytest.mark.parametrize("lists", [False, True], ids=["raw", "lists"])
def test_a_large_file_is_proven_and_answers_as_it_is(lists: bool, tmp_path: Path) -> None:
    model = large(lists=lists)
    with check(model, tmp_path).content as content:
        assert bytes(content.view) == model.SerializeToString()
        session = Session(tmp_path / "model.onnx", content)

    x = RNG.standard_normal((2, ROWS)).astype(np.float32)
    (y,) = session.run({"x": x}, ["y"])
    np.testing.assert_allclose(y, (x @ WEIGHTS + 1) @ (WEIGHTS.T * 2), rtol=1e-3)


def test_weights_that_are_not_finite_are_found_where_they_are(tmp_path: Path) -> None:
    model = large()
    values = WEIGHTS.copy()
    values[-1, -1] = np.nan
    model.graph.initializer[0].raw_data = values.tobytes()

    with pytest.raises(GuardError, match="'W': expected finite weights, got nan among its 120000"):
        check(model, tmp_path)


def changed(index: int, **fields: Any) -> ModelProto:
    model = large()
    for name, value in fields.items():
        field = getattr(model.graph.initializer[index], name)
        field.extend(value)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (changed(0, float_data=[1.0]), "raw_data beside other data"),
        (changed(0, float_data=[1.0] * 5000), "raw_data beside other data"),
        (changed(0, dims=[2]), "expected 960000 bytes"),
    ],
)
def test_what_contradicts_itself_is_refused_as_in_a_small_file(
    model: ModelProto, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(GuardError, match=reason):
        check(model, tmp_path)


def test_values_of_one_type_in_the_list_of_another_are_refused(tmp_path: Path) -> None:
    model = large(lists=True)
    model.graph.initializer[0].data_type = TensorProto.INT32

    with pytest.raises(GuardError, match="raw_data beside other data"):
        check(model, tmp_path)


def test_raw_bytes_twice_are_refused(tmp_path: Path) -> None:
    weights = large().graph.initializer[0].SerializeToString()
    twice = field(5, weights + field(9, WEIGHTS.tobytes()))
    model = large()
    del model.graph.initializer[0]

    with pytest.raises(GuardError, match="raw_data beside other data"):
        check(model.SerializeToString() + field(7, twice), tmp_path)


def test_a_place_that_a_file_makes_up_is_a_place_outside_of_it(tmp_path: Path) -> None:
    model = large()
    small = model.graph.initializer[1]
    small.external_data.add(key="0" * 32, value="74 0 1200")

    with pytest.raises(GuardError, match="external data in a tensor that is not external"):
        check(model, tmp_path)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.9999])
def test_a_large_file_that_is_cut_off_is_refused(cut: float, tmp_path: Path) -> None:
    content = large().SerializeToString()

    with pytest.raises(GuardError, match="bytes that end within"):
        check(content[: int(len(content) * cut)], tmp_path)


def _filled(parsed: ModelProto, content: ModelBytes) -> ModelProto | None:
    """What was parsed with the values in their places; None if a tensor is refused for them."""
    for _, each in list(all_tensors(parsed)):
        if not each.external_data:
            continue
        raw = raw_data(each, content)
        if raw is None or len(each.external_data) != 1:
            return None
        each.raw_data = bytes(raw)
        each.ClearField("external_data")
    return parsed


@pytest.mark.parametrize("seed", range(60))
def test_whatever_bits_of_a_large_file_are_flipped_it_is_parsed_as_it_is(
    seed: int, tmp_path: Path
) -> None:
    """All but the weights, whose bytes are no part of a message."""
    rng = np.random.default_rng(seed)
    content = bytearray(large().SerializeToString())
    outside = np.ones(len(content), bool)
    for values in (WEIGHTS, WEIGHTS.astype(np.float64) * 2):
        start = content.index(values.tobytes())
        outside[start : start + values.nbytes] = False
    for at in rng.choice(np.flatnonzero(outside), 1 + seed % 3):
        content[at] ^= 1 << int(rng.integers(8))
    (tmp_path / "model.onnx").write_bytes(content)

    with bytes_of(tmp_path / "model.onnx") as copied:
        try:
            found = _filled(parse(copied), copied)
        except GuardError:
            return
        if found is not None:
            assert found == ModelProto.FromString(bytes(content))


def external(folder: Path) -> tuple[ModelProto, bytes]:
    """The same with all its weights beside it; and the bytes of those."""
    model = large()
    data = b"\0" * 5
    for each in (model.graph.initializer[0], model.graph.node[1].attribute[0].t):
        place = {"location": "w.bin", "offset": len(data), "length": len(each.raw_data)}
        data += each.raw_data
        each.ClearField("raw_data")
        each.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            each.external_data.add(key=key, value=str(value))
    (folder / "w.bin").write_bytes(data)
    return model, data


def test_data_beside_a_model_are_brought_into_it_and_it_refers_to_nothing_outside(
    tmp_path: Path,
) -> None:
    model, _ = external(tmp_path)

    checked = check(model, tmp_path)
    # Whoever swaps it now is late.
    (tmp_path / "w.bin").unlink()

    with checked.content as content:
        assert onnx.ModelProto.FromString(bytes(content.view)) == large()
        Session(tmp_path / "model.onnx", content)


def test_a_large_file_may_have_data_beside_it_too(tmp_path: Path) -> None:
    model, _ = external(tmp_path)
    model.graph.initializer.append(numpy_helper.from_array(WEIGHTS + 1, "more"))
    model.graph.output.append(tensor("more", "FP32", [ROWS, WIDTH]))

    with check(model, tmp_path).content as content:
        whole = onnx.ModelProto.FromString(bytes(content.view))

    assert numpy_helper.to_array(whole.graph.initializer[0]).tobytes() == WEIGHTS.tobytes()
    assert numpy_helper.to_array(whole.graph.initializer[2]).tobytes() == (WEIGHTS + 1).tobytes()


def test_where_the_system_has_no_such_memory_a_file_without_a_place_of_its_own_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")

    with check(large(), tmp_path).content as content:
        place = content.path
        assert bytes(content.view) == large().SerializeToString()
        Session(tmp_path / "model.onnx", content)

    assert not place.exists()


def test_nobody_changes_the_bytes_that_were_checked(tmp_path: Path) -> None:
    content = bytes_of(save(large(), tmp_path / "model.onnx"))
    before = bytes(content.view)
    fd = os.open(content.path, os.O_RDWR)

    for change in (lambda: os.pwrite(fd, b"other", 0), lambda: os.ftruncate(fd, 1)):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(TypeError, match="read-only"):
        content.view[0] = 0

    assert bytes(content.view) == before
    os.close(fd)
    content.close()
    content.close()
    assert len(content) == 0
