"""Functions whose last bits depend on the place of a row in its batch, as onnxruntime has them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from support.onnx_files import build, save, tensor

from forwardpass.models import Categorical, Dense, Input, Network, export, to_onnx
from forwardpass.server.engine.row_wise import ELEMENTWISE, where_place_counts
from forwardpass.server.engine.session import Session
from forwardpass.server.engine.tuning import tune

PLACED = ("Acos", "Asin", "Atan", "Celu", "Cos", "Elu", "Log", "Mish", "Selu", "Sin", "Softplus")
ROWS, OPSET = 64, 22


def alone(operator: str, width: int) -> ModelProto:
    """Make y = f(x), of so many columns."""
    schema = onnx.defs.get_schema(operator, OPSET)
    second = ["half"] if schema.min_input == 2 else []
    node = helper.make_node(operator, ["x", *second], ["y"])
    shape: list[int | str | None] = ["n", width]
    half = {"half": np.array(0.5, np.float32)} if second else {}
    inputs, outputs = [tensor("x", "FP32", shape)], [tensor("y", "FP32", shape)]
    model = build([node], inputs, outputs, constants=half)
    model.opset_import[0].version = OPSET
    return model


def places_differ(operator: str, width: int, folder: Path) -> bool:
    """Whether rows that run together have other bits than single ones."""
    session = Session(save(alone(operator, width), folder / f"{operator}{width}.onnx"))
    # Within the domain of all.
    x = np.random.default_rng(0).uniform(0.05, 0.95, (ROWS, width)).astype(np.float32)
    differ = False
    for values in (x, x - 1 if operator not in ("Log", "Pow") else x):
        (together,) = session.run({"x": values}, ["y"])
        single = [session.run({"x": row[np.newaxis]}, ["y"])[0] for row in values]
        differ |= together.tobytes() != np.concatenate(single).tobytes()
    return differ


def of_one_float(operator: str) -> bool:
    """Whether an operator makes floats of one tensor of floats, or of two."""
    schema = onnx.defs.get_schema(operator, OPSET)
    takes_two = operator in ("Add", "Div", "Mul", "Pow", "Sub", "PRelu")
    return (
        (schema.min_input == 1 or takes_two)
        and "tensor(float)" in schema.inputs[0].types
        and operator not in ("Cast", "IsInf", "IsNaN")
        # onnxruntime has none of float32 at this opset.
        and operator != "Acosh"
    )


@pytest.mark.parametrize("operator", sorted(filter(of_one_float, ELEMENTWISE)))
def test_the_operators_whose_bits_depend_on_the_place_are_known(
    operator: str, tmp_path: Path
) -> None:
    differ = any(places_differ(operator, width, tmp_path) for width in (1, 3, 5, 30))
    # None may be missing; one may be there that this machine computes alike.
    assert not differ or operator in PLACED
    assert not any(places_differ(operator, width, tmp_path) for width in (4, 8, 20))


@pytest.mark.parametrize("operator", PLACED)
@pytest.mark.parametrize(("width", "batched"), [(3, False), (30, False), (8, True)])
def test_rows_run_together_where_their_bits_do_not_depend_on_it(
    operator: str, width: int, batched: bool, tmp_path: Path
) -> None:
    model = alone(operator, width)
    batching = tune(Session(save(model, tmp_path / "m.onnx")), model.graph)
    if batched:
        assert where_place_counts(model.graph) == ""
        return
    assert batching.max_rows == 1
    assert batching.invariance == "false"
    assert f"{operator}, where its width is {width}, no multiple of 4" in batching.reason


@pytest.mark.parametrize(("hidden", "batched"), [(12, True), (10, False)])
def test_of_our_networks_it_is_the_width_of_the_layer(
    hidden: int, batched: bool, tmp_path: Path
) -> None:
    network = Network.chain([5, hidden, 3], "elu", "sigmoid", name="m")
    export(network, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    found = tune(Session(tmp_path / "m.onnx"), model.graph)
    assert (found.invariance == "true") is batched, found.reason


@pytest.mark.parametrize(("width", "where"), [(4, ""), (8, ""), (3, "its width is 3")])
def test_the_width_after_categories_is_known(width: int, where: str) -> None:
    inputs: list[Input | Categorical] = [
        Input(4, fill=[1] * 4),
        Categorical("c", ["a", "b"]),
        Categorical("d", [1, 2, 3], values=np.ones((3, 5))),
    ]
    model = to_onnx(Network.define(inputs, [Dense("h", width, "softplus"), Dense("y", 1)]))
    found = where_place_counts(model.graph)
    assert found == where or where in found
    alone = to_onnx(Network.define(inputs[1], [Dense("h", width, "elu"), Dense("y", 1)]))
    assert (where_place_counts(alone.graph) == "") is (width % 4 == 0)


def test_a_width_that_is_not_known_is_none() -> None:
    shape: list[int | str | None] = ["n", "columns"]
    model = build(
        [helper.make_node("Elu", ["x"], ["y"])],
        [tensor("x", "FP32", shape)],
        [tensor("y", "FP32", shape)],
    )
    assert "where its width is not known" in where_place_counts(model.graph)


def test_what_constants_are_made_of_is_followed() -> None:
    weights = helper.make_tensor("w8", TensorProto.INT8, [4, 8], bytes(32), raw=True)
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "scale"], ["w"]),
        helper.make_node("Gemm", ["x", "w"], ["z"]),
        helper.make_node("Selu", ["z"], ["y"], name="last"),
    ]
    inputs, outputs = [tensor("x", "FP32", ["n", 4])], [tensor("y", "FP32", ["n", 8])]
    model = build(nodes, inputs, outputs, constants={"scale": np.array(1, np.float32)})
    model.graph.initializer.append(weights)
    assert where_place_counts(model.graph) == ""
    model.graph.initializer[-1].dims[:] = [8, 4]
    model.graph.node[1].attribute.append(helper.make_attribute("transB", 1))
    assert where_place_counts(model.graph) == ""
    model.graph.initializer[-1].dims[:] = [3, 4]
    assert "'last' (Selu), where its width is 3" in where_place_counts(model.graph)
