"""Runs with a maximum of memory: what is too large fails, alone, and nothing else does."""

import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from support import onnx_files
from support.onnx_files import build, save, tensor
from support.proc import resident_mib
from support.trials import bytes_of

from forwardpass.server.engine.bounded import BoundedSession
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind
from forwardpass.server.engine.session import InputsError, Session, TooLargeError, UnwantedError
from forwardpass.server.errors import RunTooLargeError

MIB = 2**20
LIMIT = 32 * MIB


def squares(*, whole: bool = False) -> ModelProto:
    """x FP32[n, 1] -> the sum of all products of two rows: n * n numbers on the way, or as y."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["p" if not whole else "y"], name="all_pairs"),
    ]
    if not whole:
        nodes.append(helper.make_node("ReduceSum", ["p"], ["y"], keepdims=0))
    shape = ["n", "m"] if whole else []
    return build(nodes, [tensor("x", "FP32", ["n", 1])], [tensor("y", "FP32", shape)])


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((count, 1), np.float32)}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> BoundedSession:
    path = save(squares(), tmp_path_factory.mktemp("bounded") / "m.onnx")
    return BoundedSession(path, None, LIMIT)


def test_rows_whose_work_grows_with_their_square_are_refused_and_others_are_answered(
    session: BoundedSession,
) -> None:
    before = resident_mib()

    # 3,000 rows: 12 kB that come to 36 MB.
    with pytest.raises(TooLargeError, match="FusedMatMul"):
        session.run(rows(3000), ["y"])

    assert resident_mib() - before < 10
    assert session.run(rows(2000), ["y"])[0] == 2000 * 2000


def test_answers_count_with_the_copies_that_are_made_of_them(tmp_path: Path) -> None:
    session = BoundedSession(save(squares(whole=True), tmp_path / "m.onnx"), None, LIMIT)

    before = resident_mib()
    with pytest.raises(TooLargeError, match="with answers of 16000000 bytes") as kept:
        session.run(rows(2000), ["y"])
    # Not kept by the error, nor by the arena.
    assert resident_mib() - before < 10, kept

    (y,) = session.run(rows(1000), ["y"])
    assert y.sum() == 1000 * 1000


def test_what_fits_alone_is_answered_whatever_others_take_meanwhile(
    session: BoundedSession,
) -> None:
    """Two of them at a time do not fit."""
    answers: list[float] = []

    def run() -> None:
        answers.extend(float(session.run(rows(2500), ["y"])[0]) for _ in range(10))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [2500.0 * 2500] * 40


def test_what_is_left_of_an_answer_before_is_no_hindrance(tmp_path: Path) -> None:
    session = BoundedSession(save(squares(whole=True), tmp_path / "m.onnx"), None, LIMIT)
    other = BoundedSession(save(squares(), tmp_path / "n.onnx"), None, LIMIT)

    for _ in range(3):
        (y,) = session.run(rows(1400), ["y"])  # 8 MB
        assert other.run(rows(2500), ["y"])[0] == 2500 * 2500  # 25 of 34
        assert y.sum() == 1400 * 1400


def test_weights_do_not_count(tmp_path: Path) -> None:
    weights = np.ones((2500, 2500), np.float32)
    model = build(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        [tensor("x", "FP32", ["n", "k"])],
        [tensor("y", "FP32", ["n", 2500])],
        constants={"W": weights},
    )
    session = BoundedSession(save(model, tmp_path / "m.onnx"), None, 8 * MIB)

    (y,) = session.run({"x": np.ones((1, 2500), np.float32)}, ["y"])

    assert y[0, 0] == 2500


@pytest.mark.parametrize(
    "make", [onnx_files.pick, onnx_files.fold, onnx_files.linear, onnx_files.slow]
)
def test_answers_are_those_of_any_session(make: type, tmp_path: Path) -> None:
    path = save(make(), tmp_path / "m.onnx")
    inputs = {
        "index": np.array([3, 0]),
        "x": np.arange(6, dtype=np.float32).reshape((2, 3) if make is onnx_files.linear else 6),
        "shape": np.array([6]),
        "turns": np.array(2),
    }
    bounded, free = BoundedSession(path, None, LIMIT), Session(path)
    feeds = {spec.name: inputs[spec.name] for spec in free.inputs}

    (got,), (expected,) = bounded.run(feeds, ["y"]), free.run(feeds, ["y"])

    assert got.tobytes() == expected.tobytes()


def test_texts_are_taken_and_given(tmp_path: Path) -> None:
    session = BoundedSession(
        save(onnx_files.identity("BYTES", ["a", "b"]), tmp_path / "m.onnx"), None, LIMIT
    )

    (y,) = session.run({"x": np.array([[b"a", b"b"]], object)}, ["y"])

    assert y.tolist() == [["a", "b"]]


def test_a_fault_of_the_inputs_is_still_one(tmp_path: Path) -> None:
    session = BoundedSession(save(onnx_files.pick(), tmp_path / "m.onnx"), None, LIMIT)

    with pytest.raises(InputsError, match="look_up"):
        session.run({"index": np.array([4])}, ["y"])


def widening(rank: int) -> ModelProto:
    """Plain, and not batched: [n, m, 1] -> [n, m, 4096], each number 4,096 times."""
    axes: list[int | str | None] = ["n", "m", 1]
    shape = axes[-rank:]
    return build(
        [
            helper.make_node("MatMul", ["x", "W"], ["h"]),
            helper.make_node("MatMul", ["h", "V"], ["y"]),
        ],
        [tensor("x", "FP32", shape)],
        [tensor("y", "FP32", shape)],
        constants={"W": np.ones((1, 4096), np.float32), "V": np.ones((4096, 1), np.float32)},
    )


def run(model: Model, tensor: np.ndarray) -> Job:
    job = Job(Kind(("y",), (tensor.shape,), False), [tensor.tobytes()], 1)
    model.queue.run([job])
    return job


def test_a_model_that_is_not_batched_has_a_maximum_and_its_caller_gets_the_reason(
    tmp_path: Path,
) -> None:
    graph = widening(3)
    path = save(graph, tmp_path / "m.onnx")
    with bytes_of(path) as content:
        model = Model("wide", 1, path, content, graph.graph, max_run_bytes=LIMIT)

    job = run(model, np.ones((1, 4000, 1), np.float32))

    assert isinstance(job.error, RunTooLargeError)
    assert str(job.error) == (
        "model 'wide': expected inputs that take at most 33554432 bytes of memory in a run, got "
        "some that take more while running node '' (MatMul); send fewer rows per call or shorter "
        "ones, or have the operator raise --trial-memory-bytes"
    )
    assert run(model, np.ones((1, 1000, 1), np.float32)).error is None


def test_a_model_that_is_batched_runs_in_pieces_and_needs_none(tmp_path: Path) -> None:
    graph = widening(2)
    path = save(graph, tmp_path / "m.onnx")
    with bytes_of(path) as content:
        model = Model("wide", 1, path, content, graph.graph, max_run_bytes=LIMIT)

    assert type(model.session) is Session
    # 3 ms of them at a time.
    assert model.batching.max_rows > 1


def test_a_model_that_turns_out_not_to_be_batched_has_a_maximum_too(tmp_path: Path) -> None:
    """Row by row by its graph, but not by what it answers: nobody knows before it is run."""
    graph = onnx_files.linear()
    graph.graph.output.append(tensor("t", "BYTES", ["batch", 3]))
    graph.graph.node.append(helper.make_node("Cast", ["x"], ["t"], to=TensorProto.STRING))
    path = save(graph, tmp_path / "m.onnx")
    with bytes_of(path) as content:
        model = Model("m", 1, path, content, graph.graph, max_run_bytes=LIMIT)

    assert model.batching.max_rows == 1
    assert type(model.session) is BoundedSession


def test_a_run_that_nobody_waits_for_any_more_ends(tmp_path: Path) -> None:
    session = BoundedSession(save(onnx_files.slow(), tmp_path / "m.onnx"), None, 2**28)
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    # It would take minutes.
    with pytest.raises(UnwantedError):
        session.run({"turns": np.array(10**6)}, ["y"], wanted)
    assert asked == 3
    # Nothing of it ends the next one.
    assert session.run({"turns": np.array(1)}, ["y"], lambda: True)[0] == 1
