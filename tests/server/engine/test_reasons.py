"""A refusal names the type or the sample, and a way out that is open."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from support import onnx_files
from support.onnx_files import build, save, tensor

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.session import Session, SessionError
from forwardpass.server.guard import GuardError, Limits, check_file

Load = Callable[..., Model]
node = helper.make_node


def with_type(input_type: int, output_type: int) -> ModelProto:
    return helper.make_model(
        helper.make_graph(
            [node("Cast", ["x"], ["y"], to=output_type)],
            "g",
            [helper.make_tensor_value_info("x", input_type, ["n"])],
            [helper.make_tensor_value_info("y", output_type, ["n"])],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )


@pytest.mark.parametrize("theirs", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN])
def test_a_type_that_no_message_carries_is_cast_not_zipped(theirs: int, tmp_path: Path) -> None:
    for types, way in (
        ((theirs, TensorProto.FLOAT), "put a Cast after the input"),
        ((TensorProto.FLOAT, theirs), "put a Cast before the output"),
    ):
        with pytest.raises(SessionError, match=way) as refused:
            Session(save(with_type(*types), tmp_path / "model.onnx"))
        assert "zipmap" not in str(refused.value)


def test_a_sequence_of_tensors_has_no_zipmap(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="with only tensors as its outputs") as refused:
        Session(save(onnx_files.sequence(), tmp_path / "model.onnx"))

    assert "zipmap" not in str(refused.value)


def packed(data_type: int, entries: list[int], count: int) -> TensorProto:
    constant = TensorProto(name="w", data_type=data_type, dims=[count])
    constant.int32_data.extend(entries)
    return constant


PACKED = {
    "FLOAT8E4M3FN": packed(TensorProto.FLOAT8E4M3FN, [0x38, 0x40, 0x44], 3),
    "FLOAT8E4M3FNUZ": packed(TensorProto.FLOAT8E4M3FNUZ, [0x40, 0x48, 0x4C], 3),
    "FLOAT8E5M2": packed(TensorProto.FLOAT8E5M2, [0x3C, 0x40, 0x42], 3),
    "FLOAT8E5M2FNUZ": packed(TensorProto.FLOAT8E5M2FNUZ, [0x40, 0x44, 0x46], 3),
    "INT4": packed(TensorProto.INT4, [0x21, 0x03], 3),
    "UINT4": packed(TensorProto.UINT4, [0x21, 0x03], 3),
}


def of_packed(constant: TensorProto) -> ModelProto:
    """x FP32[n, 3] + w, where w is stored in a type of few bits."""
    scale = np.float32(1)
    model = build(
        [node("DequantizeLinear", ["w", "scale"], ["a"]), node("Add", ["x", "a"], ["y"])],
        [tensor("x", "FP32", ["n", 3])],
        [tensor("y", "FP32", ["n", 3])],
        constants={"scale": scale},
    )
    model.graph.initializer.append(constant)
    model.opset_import[0].version, model.ir_version = 21, 10
    return model


@pytest.mark.parametrize("name", PACKED)
def test_few_bits_in_int32_data_are_read_as_onnxruntime_reads_them(
    name: str, load: Load, tmp_path: Path
) -> None:
    model = of_packed(PACKED[name])
    x = np.zeros((1, 3), np.float32)

    (y,) = load(model, tmp_path).session.run({"x": x}, ["y"])

    theirs = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert y.tobytes() == theirs.run(["y"], {"x": x})[0].tobytes()
    assert y.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("more", [-1, 1])
def test_their_number_is_proven(name: str, more: int, tmp_path: Path) -> None:
    entries = [*PACKED[name].int32_data, 0][: len(PACKED[name].int32_data) + more]
    model = of_packed(packed(PACKED[name].data_type, entries, 3))
    save(model, tmp_path / "model.onnx")

    with pytest.raises(GuardError, match=r"elements for its shape \[3\]"):
        check_file(tmp_path / "model.onnx", root=tmp_path, limits=Limits(general=True))


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    model = onnx_files.linear()
    unused = TensorProto(name="unused", data_type=TensorProto.COMPLEX64, dims=[1])
    unused.float_data.extend([1, 0])
    model.graph.initializer.append(unused)
    save(model, tmp_path / "model.onnx")

    with pytest.raises(GuardError, match=r"got COMPLEX64; convert it .* or leave it out"):
        check_file(tmp_path / "model.onnx", root=tmp_path, limits=Limits())


def with_optional(shape: onnx_files.Shape | None) -> ModelProto:
    """x + w, where w is an input that may be left out."""
    model = build(
        [node("Add", ["x", "w"], ["y"])],
        [tensor("x", "FP32", ["n", 3]), helper.make_tensor_value_info("w", 1, shape)],
        [tensor("y", "FP32", ["n", 3])],
        constants={"w": np.array([1, 2, 3], np.float32)},
    )
    assert len(model.graph.input) == 2
    return model


@pytest.mark.parametrize("shape", [[3], None, ["k"]], ids=["fixed", "no rank", "free"])
def test_an_input_that_may_be_left_out_is_the_constant_that_the_file_gives(
    shape: onnx_files.Shape | None, load: Load, tmp_path: Path
) -> None:
    model = load(with_optional(shape), tmp_path)
    x: NDArray[np.float32] = np.ones((2, 3), np.float32)

    (y,) = model.session.run({"x": x}, ["y"])

    # As a constant, which no caller can change, it says nothing against rows run together.
    assert list(model.inputs) == ["x"]
    assert y.tolist() == [[2, 3, 4]] * 2
    assert model.batching.max_rows > 1
