"""The guard: what it lets pass, what it proves plain, what it refuses and how it says so."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper
from support import onnx_files
from support.hostile_files import HARMFUL, swells
from support.onnx_files import B, W, build, linear, save, tensor
from support.proc import resident_mib
from support.untrue_files import ESCAPING, UNTRUE, external

from forwardpass.models import ACTIVATIONS, ActivationName, Dense, Network, to_onnx
from forwardpass.models.zoo import ZOO, Example
from forwardpass.proto import metadata
from forwardpass.server.engine.replay import prove
from forwardpass.server.engine.session import Session
from forwardpass.server.guard import Checked, GuardError, Limits, check_file


def check(model: ModelProto, folder: Path, limits: Limits | None = None) -> Checked:
    path = save(model, folder / "model.onnx")
    return check_file(path, root=folder, limits=limits or Limits())


def node(
    operator: str, inputs: list[str], outputs: list[str], ml: bool = False, **attributes: Any
) -> NodeProto:
    domain = "ai.onnx.ml" if ml else ""
    return helper.make_node(operator, inputs, outputs, domain=domain, **attributes)


def as_scikit_learn_writes() -> ModelProto:
    """An MLPClassifier of three text classes behind a StandardScaler, as skl2onnx writes it."""
    model = build(
        [
            node("Scaler", ["x"], ["scaled"], ml=True, offset=[1.0] * 3, scale=[2.0] * 3),
            node("Cast", ["scaled"], ["cast"], to=TensorProto.FLOAT),
            node("MatMul", ["cast", "coef"], ["product"]),
            node("Add", ["product", "bias"], ["sum"]),
            node("Relu", ["sum"], ["hidden"]),
            node("MatMul", ["hidden", "coef1"], ["product1"]),
            node("Add", ["product1", "bias1"], ["sum1"]),
            node("Softmax", ["sum1"], ["probabilities"], axis=-1),
            node("ArgMax", ["probabilities"], ["best"], axis=1),
            node("ArrayFeatureExtractor", ["classes", "best"], ["column"], ml=True),
            node("Reshape", ["column", "flat"], ["label"]),
        ],
        [tensor("x", "FP32", [None, 3])],
        [tensor("label", "BYTES", [None]), tensor("probabilities", "FP32", [None, 3])],
        constants={
            "coef": np.ones((3, 8), np.float32),
            "bias": np.ones((1, 8), np.float32),
            "coef1": np.ones((8, 3), np.float32),
            "bias1": np.ones((1, 3), np.float32),
            "flat": np.array([-1]),
        },
    )
    classes: Any = [b"ham", b"eggs", b"spam"]  # which make_tensor takes, for all its types say
    model.graph.initializer.append(helper.make_tensor("classes", TensorProto.STRING, [3], classes))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model


def as_pytorch_writes() -> ModelProto:
    """Flatten, Linear, ReLU, Linear; the weights as (out, in)."""
    return build(
        [
            node("Flatten", ["image"], ["flat"]),
            node("Gemm", ["flat", "0.weight", "0.bias"], ["/1/Gemm"], alpha=1.0, transB=1),
            node("Relu", ["/1/Gemm"], ["/2/Relu"]),
            node("Gemm", ["/2/Relu", "2.weight", "2.bias"], ["logits"], beta=1.0, transB=1),
        ],
        [tensor("image", "FP32", ["batch", 1, 4, 4])],
        [tensor("logits", "FP32", ["batch", 10])],
        constants={
            "0.weight": np.ones((8, 16), np.float32),
            "0.bias": np.ones(8, np.float32),
            "2.weight": np.ones((10, 8), np.float32),
            "2.bias": np.ones(10, np.float32),
        },
    )


def as_keras_writes() -> ModelProto:
    """Two heads on one trunk, one of them after a Concat; shapes by Reshape with -1."""
    return build(
        [
            node("Reshape", ["x", "flat"], ["rows"]),
            node("MatMul", ["rows", "trunk"], ["t"]),
            node("Tanh", ["t"], ["trunk_out"]),
            node("Concat", ["trunk_out", "rows"], ["both"], axis=1),
            node("MatMul", ["both", "head"], ["h"]),
            node("Sigmoid", ["h"], ["malignant"]),
            node("Identity", ["trunk_out"], ["code"]),
        ],
        [tensor("x", "FP32", ["n", 2, 3])],
        [tensor("malignant", "FP32", ["n", 1]), tensor("code", "FP32", ["n", 4])],
        constants={
            "flat": np.array([-1, 6]),
            "trunk": np.ones((6, 4), np.float32),
            "head": np.ones((10, 1), np.float32),
        },
    )


def quantized() -> ModelProto:
    """A layer between QuantizeLinear and DequantizeLinear, its weights as int8."""
    return build(
        [
            node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "step", "zero"], ["x_"]),
            node("DequantizeLinear", ["w", "steps", "zeros"], ["w_"], axis=0),
            node("Gemm", ["x_", "w_", "b"], ["y"], transB=1),
        ],
        [tensor("x", "FP32", ["batch", 3])],
        [tensor("y", "FP32", ["batch", 2])],
        constants={
            "step": np.float32(0.1),
            "zero": np.array(3, np.int8),
            "w": W.astype(np.int8),
            "steps": np.array([0.5, 0.25], np.float32),
            "zeros": np.zeros(2, np.int8),
            "b": B,
        },
    )


def exported(example: Example) -> ModelProto:
    return to_onnx(example.network())


PLAIN: dict[str, Callable[[], ModelProto]] = {
    **{f"zoo: {name}": partial(exported, example) for name, example in ZOO.items()},
    **{
        f"identity: {datatype} of rank {rank}": partial(
            onnx_files.identity, datatype, ["a", "b", "c", "d"][:rank]
        )
        for datatype in ("BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BYTES")
        for rank in range(5)
    },
    "identity: one length twice": lambda: onnx_files.identity("FP32", ["n", "n"]),
    "identity: axes without a name": lambda: onnx_files.identity("FP32", [None, None]),
    "identity: fixed": lambda: onnx_files.identity("FP32", [2, 3]),
    "one layer": linear,
    "several inputs and outputs": onnx_files.pair,
    "a constant output": onnx_files.constant,
    "ours, with a skip connection": lambda: to_onnx(
        Network.define(4, [Dense("hidden", 5), Dense("out", 2, reads=["x", "hidden"])])
    ),
    "scikit-learn": as_scikit_learn_writes,
    "PyTorch": as_pytorch_writes,
    "Keras": as_keras_writes,
    "int8": quantized,
}


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_a_plain_network_passes_and_answers(make: Callable[[], ModelProto], tmp_path: Path) -> None:
    checked = check(make(), tmp_path)

    assert checked.needs_trial == ""
    assert checked.plain
    assert bytes(checked.content.view) == (tmp_path / "model.onnx").read_bytes()
    prove(Session(tmp_path / "model.onnx"), checked.model.graph)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    activation=st.sampled_from(
        [each.name for each in ACTIVATIONS.values() if not each.outputs_only]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_network_of_ours_is_plain(
    sizes: list[int], activation: ActivationName, seed: int, tmp_path: Path
) -> None:
    network = Network.chain(sizes, activation, activation, seed=seed)

    assert check(to_onnx(network), tmp_path).needs_trial == ""


def test_what_is_not_known_has_to_be_tried_and_the_reason_names_it(tmp_path: Path) -> None:
    model = build(
        [node("LpNormalization", ["x"], ["y"], name="norm")],
        [tensor("x", "FP32", ["n", 4])],
        [tensor("y", "FP32", ["n", 4])],
    )

    checked = check(model, tmp_path)

    assert not checked.plain
    assert checked.needs_trial == (
        "node 'norm' (LpNormalization) is no operator of a plain network"
    )


UNCERTAIN = {
    "an old opset": lambda m: setattr(m.opset_import[0], "version", 12),
    "no opset": lambda m: m.ClearField("opset_import"),
    "an attribute that is none of Gemm's": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("mystery", 1)
    ),
    "an attribute of another type": lambda m: (
        m.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("transB", 1.0))
    ),
    "an input without a shape": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
    "an input that is no tensor": lambda m: m.graph.input[0].type.sequence_type.elem_type.CopyFrom(
        m.graph.output[0].type
    ),
    "rows as columns": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("transA", 1)
    ),
}


@pytest.mark.parametrize("change", UNCERTAIN.values(), ids=UNCERTAIN)
def test_what_is_not_certain_has_to_be_tried(
    change: Callable[[ModelProto], object], tmp_path: Path
) -> None:
    model = linear()
    change(model)

    assert not check(model, tmp_path).plain


def test_products_of_rows_and_rows_have_to_be_tried(tmp_path: Path) -> None:
    """[n, 1] against [1, n]: n rows would take n * n numbers."""
    model = build(
        [node("Transpose", ["x"], ["turned"]), node("Add", ["x", "turned"], ["y"])],
        [tensor("x", "FP32", ["n", 1])],
        [tensor("y", "FP32", ["n", "n"])],
    )

    assert "may be larger than its inputs" in check(model, tmp_path).needs_trial


def test_many_large_samples_have_to_be_tried(tmp_path: Path) -> None:
    """A file may ask for any number of rows when it is loaded."""
    rows = np.zeros((60_000, 3), np.float32)
    samples = metadata.Samples({"x": rows}, {"y": rows[:, :2]}, {"y": 1.0})
    model = linear({metadata.SAMPLES: samples.dump()})

    assert check(model, tmp_path).plain
    assert not check(model, tmp_path, Limits(max_plain_bytes=2**21)).plain


def test_samples_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"metadata 'forwardpass.samples': expected samples"):
        check(linear({metadata.SAMPLES: "[]"}), tmp_path)


REFUSED = {**ESCAPING, **UNTRUE}
TRIED = ("an unknown operator",)


@pytest.mark.parametrize("general", [False, True], ids=["", "general"])
@pytest.mark.parametrize("name", [name for name in REFUSED if name not in TRIED])
def test_what_escapes_or_lies_is_refused(name: str, general: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = REFUSED[name](folder)

    with pytest.raises(GuardError, match=r"expected .*, got .*; "):
        check_file(path, root=folder, limits=Limits(general=general))


def test_a_reason_reports_the_thing_what_was_expected_what_came_and_the_fix(tmp_path: Path) -> None:
    model = linear()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5

    with pytest.raises(GuardError) as refused:
        check(model, tmp_path)

    assert str(refused.value) == (
        "tensor 'y': expected shape [batch, 2], which the graph computes, got [batch, 5] declared; "
        "declare the shape that it has, or leave it out"
    )


@pytest.mark.parametrize("seed", range(200))
def test_no_cut_and_no_flipped_bit_raises_anything_else(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(linear({"key": "value"}).SerializeToString())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: rng.integers(1, len(content) + 1)] if seed % 2 else content)

    # What passes is for the trial and for onnxruntime to judge.
    with contextlib.suppress(GuardError):
        check_file(path, root=tmp_path, limits=Limits())


def test_data_beside_the_model_is_proven_as_data_inside_it(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 8 + W.tobytes())

    assert check(external("weights.bin", 8), tmp_path).plain

    (tmp_path / "weights.bin").write_bytes(b"\0" * 8 + (W * np.nan).tobytes())
    with pytest.raises(GuardError, match="finite weights, got nan"):
        check(external("weights.bin", 8), tmp_path)


def test_data_beside_the_model_counts_as_its_size(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(4000))
    model = external("weights.bin")
    for index in range(40):
        model.graph.initializer.append(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"again {index}"

    check(model, tmp_path, Limits(max_file_bytes=10_000))
    with pytest.raises(GuardError, match="no more external data"):
        check(model, tmp_path, Limits(max_file_bytes=len(model.SerializeToString()) + 100))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(GuardError, match=r"expected at most 536870912 bytes, got 1099511627776"):
        check_file(path, root=tmp_path, limits=Limits())


def test_links_within_the_served_folder_are_followed(tmp_path: Path) -> None:
    """Kubernetes mounts files so: `model.onnx -> ..data/model.onnx`, `..data -> ..2024`."""
    save(linear(), tmp_path / "..2024" / "model.onnx")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "model.onnx").symlink_to("..data/model.onnx")

    assert check_file(tmp_path / "model.onnx", root=tmp_path, limits=Limits()).plain


def test_files_with_several_names_in_the_served_folder_are_read(tmp_path: Path) -> None:
    """As `cp -al` makes a version of another one."""
    model = external("weights.bin")
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
    (tmp_path / "1" / "weights.bin").write_bytes(W.tobytes())
    save(model, tmp_path / "1" / "model.onnx")
    for name in ("weights.bin", "model.onnx"):
        (tmp_path / "2" / name).hardlink_to(tmp_path / "1" / name)

    assert check_file(tmp_path / "2" / "model.onnx", root=tmp_path, limits=Limits()).plain
    with pytest.raises(GuardError, match="got a hard link, by which it is a file outside as well"):
        check_file(tmp_path / "2" / "model.onnx", root=tmp_path / "2", limits=Limits())


def test_a_file_that_its_operator_named_may_have_names_anywhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = save(linear(), tmp_path / "served" / "model.onnx")
    (tmp_path / "elsewhere" / "model.onnx").hardlink_to(path)

    assert check_file(path, root=None, limits=Limits()).plain


def test_a_bias_of_length_1_is_what_onnx_says_but_not_in_a_file_of_our_contract(
    tmp_path: Path,
) -> None:
    model = linear()
    model.graph.initializer[1].CopyFrom(helper.make_tensor("b", TensorProto.FLOAT, [1], [0.5]))
    assert check(model, tmp_path).plain

    model.metadata_props.add(key=metadata.FORMAT, value="1")
    with pytest.raises(GuardError, match=r"'layer' \(Gemm\): expected a bias of 2 entries"):
        check(model, tmp_path)


# Each counts up to the limit: measured line by line that takes four times as long.
uncounted = pytest.mark.no_cover


@uncounted
@pytest.mark.parametrize("general", [False, True], ids=["", "general"])
def test_parsing_takes_time_as_the_file_has_bytes(general: bool, tmp_path: Path) -> None:
    """By CPU time against a file of a quarter: whatever else is busy."""
    taken = []
    for messages in (25_001, 100_001):
        path = tmp_path / f"{messages}.onnx"
        path.write_bytes(swells(messages))
        start = time.process_time()
        with pytest.raises(GuardError):
            check_file(path, root=tmp_path, limits=Limits(general=general))
        taken.append(time.process_time() - start)

    assert taken[1] < 8 * taken[0]


@uncounted
@pytest.mark.parametrize("general", [False, True], ids=["", "general"])
@pytest.mark.parametrize(
    "name", ["nested beyond protobuf's limit", "more empty nodes than allowed"]
)
def test_parsing_takes_little_memory(name: str, general: bool, tmp_path: Path) -> None:
    path = HARMFUL[name](tmp_path)
    before = resident_mib()

    with pytest.raises(GuardError):
        check_file(path, root=tmp_path, limits=Limits(general=general))

    assert resident_mib() - before < 30


@uncounted
def test_a_small_file_of_empty_messages_is_parsed_within_20_mb(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(swells(130_000))
    before = resident_mib()

    with pytest.raises(GuardError):
        check_file(path, root=tmp_path, limits=Limits())

    assert resident_mib() - before < 30


def test_the_limits_are_the_operators(tmp_path: Path) -> None:
    for limits, reason in (
        (Limits(max_nodes=1), "at most 1 nodes"),
        (Limits(max_tensors=1), "at most 1 inputs"),
    ):
        with pytest.raises(GuardError, match=reason):
            check(onnx_files.pair(), tmp_path, limits)
    for limits in (Limits(max_plain_bytes=8), Limits(max_plain_operations=1)):
        assert not check(linear(), tmp_path, limits).plain


@pytest.mark.parametrize(
    "settings", [{"max_file_bytes": 2**31}, {"max_nodes": 0}, {"max_plain_operations": -1}]
)
def test_limits_are_valid_once_built(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Limits(**settings)
