"""Inputs for models that bring no samples: what is tried, that it is bounded, and what then."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from support import onnx_files
from support.onnx_files import build, save, tensor
from support.trials import try_file

from forwardpass.proto import metadata
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind, QueueLimits
from forwardpass.server.engine.replay import (
    WrongAnswerError,
    no_rows,
    other_rows,
    prove,
    prove_steady,
)
from forwardpass.server.engine.session import Session
from forwardpass.server.engine.warm_up import suggest
from forwardpass.server.errors import InvalidTensorError, ModelFailedError
from forwardpass.server.guard import Limits
from forwardpass.server.repository.disk import find_models
from forwardpass.server.repository.loader import Loader
from forwardpass.server.repository.trial import Trial, TrialError

node = helper.make_node
Load = Callable[..., Model]
GENERAL = Limits(general=True)


def with_list(
    *nodes: NodeProto, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> ModelProto:
    model = build(nodes, inputs, outputs)
    # Col2Im is of opset 18.
    model.opset_import[0].version = 18
    return model


def listed(name: str, count: int) -> ValueInfoProto:
    return tensor(name, "INT64", [count])


ANSWERABLE = {
    "a window of 512 in a batch of its own": build(
        [node("Pad", ["x", "pads"], ["y"], mode="reflect")],
        [tensor("x", "FP32", ["batch", "samples"])],
        [tensor("y", "FP32", ["batch", None])],
        constants={"pads": np.array([0, 300, 0, 300])},
    ),
    "a window of 576 and a batch in other places": build(
        [node("Reshape", ["x", "shape"], ["z"]), node("Add", ["z", "state"], ["y"])],
        [tensor("x", "FP32", ["b", "n"]), tensor("state", "FP32", [2, "b", 288])],
        [tensor("y", "FP32", [None, None, None])],
        constants={"shape": np.array([2, -1, 288])},
    ),
    "a shape": with_list(
        node("Reshape", ["x", "shape"], ["y"]),
        inputs=[tensor("x", "FP32", [2, 3, 4]), listed("shape", 4)],
        outputs=[tensor("y", "FP32", [None] * 4)],
    ),
    "axes": with_list(
        node("Unsqueeze", ["x", "axes"], ["y"]),
        inputs=[tensor("x", "FP32", [2, 3]), listed("axes", 3)],
        outputs=[tensor("y", "FP32", [None] * 5)],
    ),
    "a part with steps": with_list(
        node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"]),
        inputs=[
            tensor("x", "FP32", [5, 6, 7]),
            *(listed(name, 2) for name in ("starts", "ends", "axes", "steps")),
        ],
        outputs=[tensor("y", "FP32", [None] * 3)],
    ),
    "parts as long as the outputs": with_list(
        node("Split", ["x", "parts"], ["y", "z"], axis=1),
        inputs=[tensor("x", "FP32", [2, 6]), listed("parts", 2)],
        outputs=[tensor("y", "FP32", [2, 1]), tensor("z", "FP32", [2, 5])],
    ),
    "blocks of an image": with_list(
        node("Col2Im", ["x", "image", "block"], ["y"], dilations=[1, 5]),
        inputs=[tensor("x", "FP32", [1, 4, 5]), listed("image", 2), listed("block", 2)],
        outputs=[tensor("y", "FP32", [1, 1, 6, 6])],
    ),
}


@pytest.mark.parametrize("name", ANSWERABLE)
def test_what_shapes_and_operators_suggest_is_answered(
    name: str, load: Load, tmp_path: Path
) -> None:
    model = ANSWERABLE[name]
    model.opset_import[0].version = 18

    assert load(model, tmp_path, GENERAL).unproven == ""


@pytest.mark.parametrize("name", ANSWERABLE)
def test_what_is_suggested_is_always_the_same_bounded_and_fits(name: str, tmp_path: Path) -> None:
    model = ANSWERABLE[name]
    session = Session(save(model, tmp_path / "model.onnx"))

    first, second = (list(suggest(session.inputs, session.outputs, model.graph)) for _ in range(2))

    assert 2 <= len(first) < 200
    for one, other in zip(first, second, strict=True):
        assert {name: array.tolist() for name, array in one.items()} == {
            name: array.tolist() for name, array in other.items()
        }
        assert sum(array.size for array in one.values()) <= 2**20
        for spec in session.inputs:
            declared = zip(one[spec.name].shape, spec.shape, strict=True)
            assert all(size == wanted or wanted == -1 for size, wanted in declared)


def test_what_is_fixed_is_tried_once(tmp_path: Path) -> None:
    model = onnx_files.identity("FP32", [2, 3])
    session = Session(save(model, tmp_path / "model.onnx"))

    values = [feeds["x"].max() for feeds in suggest(session.inputs, session.outputs, model.graph)]

    assert values == [0, 1]


def test_a_list_of_many_axes_costs_no_time(tmp_path: Path) -> None:
    model = with_list(
        node("Col2Im", ["x", "image", "block"], ["y"]),
        inputs=[tensor("x", "FP32", [1, 60060, 1]), listed("image", 3), listed("block", 3)],
        outputs=[tensor("y", "FP32", [1, 1, 1, 1, 1])],
    )
    model.opset_import[0].version = 18
    session = Session(save(model, tmp_path / "model.onnx"))
    start = time.process_time()

    tries = list(suggest(session.inputs, session.outputs, model.graph))

    assert len(tries) < 50
    assert time.process_time() - start < 1


def unanswerable() -> ModelProto:
    """Answers rows of 1,741 numbers alone."""
    return build(
        [node("MatMul", ["x", "row"], ["y"])],
        [tensor("x", "FP32", ["n", "m"])],
        [tensor("y", "FP32", ["n"])],
        constants={"row": np.zeros(1741, np.float32)},
    )


def test_what_answers_nothing_is_refused_with_the_ways_out(load: Load, tmp_path: Path) -> None:
    for limits in (Limits(), Limits(general=True)):
        with pytest.raises(ModelFailedError) as failed:
            load(unanswerable(), tmp_path, limits)

        assert (
            "failed while running node '' (MatMul): MatMul dimension mismatch, at each of"
            in failed.value.reason
        )
        assert "--general-models --unproven-models" in failed.value.reason


def test_what_answers_nothing_is_served_unproven_where_that_is_allowed(
    load: Load, tmp_path: Path
) -> None:
    model = load(unanswerable(), tmp_path, Limits(general=True, unproven=True))

    (y,) = model.session.run({"x": np.ones((2, 1741), np.float32)}, ["y"])
    assert y.tolist() == [0, 0]
    assert "(MatMul): MatMul dimension mismatch, at each of" in model.properties[metadata.UNPROVEN]
    assert model.batching.max_rows == 1
    assert model.properties[metadata.BATCH_INVARIANT].startswith("not batched: no input is known")


def test_a_model_that_answers_is_as_proven_with_the_flag_as_without(
    load: Load, tmp_path: Path
) -> None:
    model = load(onnx_files.pick(), tmp_path, Limits(general=True, unproven=True))

    assert metadata.UNPROVEN not in model.properties


def test_a_file_does_not_say_of_itself_that_it_is_unproven(load: Load, tmp_path: Path) -> None:
    model = load(onnx_files.linear({metadata.UNPROVEN: "a claim"}), tmp_path)

    assert metadata.UNPROVEN not in model.properties


def test_samples_are_no_more_forgiven_than_without_the_flag(load: Load, tmp_path: Path) -> None:
    x = np.ones((1, 3), np.float32)
    samples = metadata.Samples({"x": x}, {"y": x[:, :2]}, {"y": 1e-6})
    model = onnx_files.linear({metadata.SAMPLES: samples.dump()})
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(node("Sinh", ["z"], ["y"]))

    with pytest.raises(ModelFailedError, match="of its samples: expected 1 within"):
        load(model, tmp_path, Limits(general=True, unproven=True))


def test_unproven_goes_with_general_alone() -> None:
    with pytest.raises(ValueError, match="unproven_models: expected general_models as well"):
        Limits(unproven=True)


@pytest.mark.parametrize("training", [0, 1])
def test_what_depends_on_what_came_before_shows(training: int, tmp_path: Path) -> None:
    """A normalization in training, as a guard that did not know it would let it pass."""
    names = ["x", "scale", "bias", "mean", "variance"]
    outputs = ["y", "m", "v"] if training else ["y"]
    model = build(
        [node("BatchNormalization", names, outputs, training_mode=training)],
        [tensor("x", "FP32", ["n", 3])],
        [tensor("y", "FP32", ["n", 3])],
        constants=dict.fromkeys(names[1:], np.ones(3, np.float32)),
    )
    path = save(model, tmp_path / "model.onnx")
    session = Session(path)
    answered = prove(session, model.graph)
    with Trial() as trial:
        if not training:
            prove_steady(session, answered, other_rows(session, answered.inputs))
            assert try_file(trial, path)
            return
        with pytest.raises(TrialError, match="'y': expected the same answer to the same row"):
            try_file(trial, path, general=True)


def test_random_answers_show(tmp_path: Path) -> None:
    model = build(
        [node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])],
        [tensor("x", "FP32", ["n", 3])],
        [tensor("y", "FP32", ["n", 3])],
    )
    session = Session(save(model, tmp_path / "model.onnx"))

    with pytest.raises(WrongAnswerError, match="without state or random numbers"):
        prove_steady(session, prove(session, model.graph), [])


def test_texts_and_numbers_are_compared(tmp_path: Path) -> None:
    model = onnx_files.identity("BYTES", ["n"])
    session = Session(save(model, tmp_path / "model.onnx"))

    answered = prove(session, model.graph)
    prove_steady(session, answered, other_rows(session, answered.inputs))


def slow_if_empty() -> ModelProto:
    """x FP32[n], z FP32[m, k] -> y FP32[]: a minute where either has no elements."""
    model = onnx_files.slow()
    graph = model.graph
    graph.input[0].CopyFrom(tensor("x", "FP32", ["n"]))
    graph.input.append(tensor("z", "FP32", ["m", "k"]))
    for name, value in (("zero", 0), ("many", 300_000), ("one", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    nodes = [
        node("Size", ["x"], ["x_size"]),
        node("Size", ["z"], ["z_size"]),
        node("Mul", ["x_size", "z_size"], ["size"]),
        node("Equal", ["size", "zero"], ["is_empty"]),
        node("Where", ["is_empty", "many", "one"], ["turns"]),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def test_what_does_not_survive_no_rows_is_served_and_never_asked_about_none(
    tmp_path: Path,
) -> None:
    """In the place of an operator that ends its process: the trial ends this one in its time."""
    path = save(slow_if_empty(), tmp_path / "model.onnx")
    (file,) = find_models(path)
    with Trial(cpu_s=2.0) as trial:
        assert try_file(trial, save(onnx_files.slow(), tmp_path / "other.onnx"), general=True)
        model = Loader(path, GENERAL, trial, QueueLimits()).load(file)
    x, z = np.ones(2, np.float32), np.ones((2, 2), np.float32)
    shapes = ((2,), (2, 2))
    job = Job(Kind(("y",), shapes, False), [x.tobytes(), z.tobytes()], 1)
    model.queue.run([job])
    assert job.error is None

    for shapes in (((0,), (2, 2)), ((2,), (0, 2)), ((2,), (2, 0))):
        tensors = [np.ones(shape, np.float32).tobytes() for shape in shapes]
        job = Job(Kind(("y",), shapes, False), tensors, 1)
        model.queue.run([job])
        assert isinstance(job.error, InvalidTensorError)
        assert "expected at least one element" in str(job.error)


def test_scalars_beside_rows_stay_as_they_are(tmp_path: Path) -> None:
    model = onnx_files.identity("BYTES", ["n"])
    model.graph.input.append(tensor("unread", "BYTES", []))
    session = Session(save(model, tmp_path / "model.onnx"))
    feeds = {"x": np.array([b"a"], object), "unread": np.array(b"b", object)}

    (empty,) = no_rows(session, feeds)

    assert empty["x"].shape == (0,)
    assert empty["unread"].tolist() == b"b"
    assert list(no_rows(session, {"x": feeds["x"][:0], "unread": feeds["unread"]})) == []


def test_each_way_to_send_nothing_is_tried(tmp_path: Path) -> None:
    model = onnx_files.identity("FP32", ["n", 3, "m"])
    session = Session(save(model, tmp_path / "model.onnx"))

    tried = [feeds["x"].shape for feeds in no_rows(session, {"x": np.ones((2, 3, 4), np.float32)})]

    assert tried == [(0, 3, 4), (2, 3, 0), (0, 3, 0)]


def test_a_question_mark_is_no_name_of_a_length(tmp_path: Path) -> None:
    """PaddlePaddle's way to write that it knows none."""
    model = onnx_files.identity("FP32", ["?", 3, "?", "n"])

    (spec,) = Session(save(model, tmp_path / "model.onnx")).inputs

    assert spec.symbols == (None, None, None, "n")
