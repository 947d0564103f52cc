"""What onnxruntime takes in more forms than one is read here in one."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper
from support import onnx_files
from support.onnx_files import build, linear, save, tensor
from support.trials import try_file

from forwardpass.server.engine.model import Model
from forwardpass.server.guard import Checked, GuardError, Limits, check_file
from forwardpass.server.guard.canonical import canonicalize
from forwardpass.server.repository.trial import Trial, TrialError

Load = Callable[..., Model]


def check(model: ModelProto, folder: Path, limits: Limits | None = None) -> Checked:
    path = save(model, folder / "model.onnx")
    return check_file(path, root=folder, limits=limits or Limits())


def chain(length: int) -> list[NodeProto]:
    return [helper.make_node("Relu", [f"x{k}"], [f"x{k + 1}"], name=f"n{k}") for k in range(length)]


def order(model: ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


def of_chain(nodes: list[NodeProto]) -> ModelProto:
    return build(
        nodes,
        [tensor("x0", "FP32", ["n", 2])],
        [tensor(f"x{len(nodes)}", "FP32", ["n", 2])],
    )


@pytest.mark.parametrize("seed", range(5))
def test_nodes_in_any_order_are_served_as_those_in_order(
    seed: int, load: Load, tmp_path: Path
) -> None:
    nodes = chain(6)
    nodes[2] = helper.make_node("Neg", ["x2"], ["x3"], name="n2")
    shuffled = [nodes[k] for k in np.random.default_rng(seed).permutation(6)]
    x = np.array([[1, -2]], np.float32)

    model = load(of_chain(shuffled), tmp_path)

    (y,) = model.session.run({"x0": x}, ["x6"])
    assert y.tolist() == [[0, 0]]
    # Read in order it is seen to be row-wise, as the other is.
    assert model.batching.max_rows > 1
    assert check(of_chain(shuffled), tmp_path).plain


def test_nodes_that_are_in_order_stay_where_they_are() -> None:
    nodes = [*chain(3), *(helper.make_node("Abs", ["x0"], [f"a{k}"]) for k in range(3))]
    model = of_chain(nodes)
    before = model.SerializeToString()

    canonicalize(model)

    assert model.SerializeToString() == before


def branching(*then: NodeProto) -> ModelProto:
    """An If before what its branch reads."""
    inner = helper.make_graph(list(then), "then", [], [tensor("c", "FP32", ["n"])])
    other = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["d"])], "else", [], [tensor("d", "FP32", ["n"])]
    )
    return build(
        [
            helper.make_node("If", ["yes"], ["y"], name="if", then_branch=inner, else_branch=other),
            helper.make_node("Abs", ["x"], ["a"], name="abs"),
        ],
        [tensor("x", "FP32", ["n"])],
        [tensor("y", "FP32", ["n"])],
        constants={"yes": np.array(True)},
    )


FIRST, SECOND = (
    helper.make_node("Add", ["a", "a"], ["b"], name="first"),
    helper.make_node("Neg", ["b"], ["c"], name="second"),
)


def test_what_a_subgraph_reads_its_node_waits_for(load: Load, tmp_path: Path) -> None:
    model = load(branching(FIRST, SECOND), tmp_path, Limits(general=True))

    (y,) = model.session.run({"x": np.array([3], np.float32)}, ["y"])

    assert y.tolist() == [-6]


def test_a_subgraph_has_to_be_in_order_as_onnxruntime_says(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"'second' \(Neg\): .* in the order of computation"):
        check(branching(SECOND, FIRST), tmp_path, Limits(general=True))


def test_a_circle_is_refused_with_a_reason_of_its_own(tmp_path: Path) -> None:
    model = of_chain(chain(3))
    model.graph.node[0].input[0] = "x2"

    with pytest.raises(GuardError, match=r"'n0' \(Relu\): .* got one in a cycle of nodes"):
        check(model, tmp_path)


def test_sorting_takes_time_as_the_file_has_nodes() -> None:
    model = of_chain(chain(20_000)[::-1])
    start = time.process_time()

    canonicalize(model)

    assert time.process_time() - start < 2
    assert order(model) == [f"n{k}" for k in range(20_000)]


def test_a_division_that_may_crash_is_found_whatever_the_order(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["a", "b"], ["c"]),
        helper.make_node("Abs", ["z"], ["b"]),
        helper.make_node("Abs", ["x"], ["a"]),
    ]
    model = build(
        nodes,
        [tensor(name, "INT32", ["n", 1]) for name in "xz"],
        [tensor("y", "FP32", ["n", 1])],
    )
    path = save(model, tmp_path / "model.onnx")

    with Trial() as trial, pytest.raises(TrialError, match="a caller could stop the server"):
        try_file(trial, path)


def lengths(*sizes: int) -> ModelProto:
    """`linear` with an input of lengths, some below zero."""
    model = linear()
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    return model


def test_a_length_of_minus_1_is_any_length(load: Load, tmp_path: Path) -> None:
    model = load(lengths(-1, 3), tmp_path)

    assert model.inputs["x"].shape == (-1, 3)
    assert model.inputs["x"].symbols == (None, None)
    assert model.batching.max_rows > 1
    assert check(lengths(-1, 3), tmp_path).plain


def test_a_length_of_minus_1_counts_as_any_other_that_is_not_known(tmp_path: Path) -> None:
    """Taken for a number, it would make what a file may take less than nothing."""
    model = onnx_files.identity("FP32", [None, 2**20])
    assert not check(model, tmp_path).plain
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1

    assert not check(model, tmp_path).plain


def test_between_nodes_and_at_the_end_it_is_no_length_either(load: Load, tmp_path: Path) -> None:
    model = of_chain(chain(2))
    model.graph.value_info.append(tensor("x1", "FP32", [None, 2]))
    for value in (model.graph.value_info[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1

    assert load(model, tmp_path).batching.max_rows > 1


@pytest.mark.parametrize("size", [-2, -(2**63)])
def test_no_other_length_below_zero_is_taken(size: int, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="each 0 or longer"):
        check(lengths(size, 3), tmp_path)
