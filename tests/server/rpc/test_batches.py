"""What runs together, and what in pieces."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import onnx_files
from support.calls import linear, serve
from support.wire import infer_request

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind
from forwardpass.server.errors import RunError
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc.batches import Batch, alone, batches, pieces
from forwardpass.server.rpc.infer import Call, Inference
from forwardpass.server.rpc.regions import Regions

MAX_ROWS = 8
PIECE_ROWS = 12
KIND = Kind(("y",), ((2,),), by_rows=True)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder: Path = tmp_path_factory.mktemp("models")
    catalog = Catalog()
    for name, file in (("linear", onnx_files.linear()), ("pair", onnx_files.pair())):
        model = serve(catalog, folder, name, file)
        model.batching = replace(model.batching, max_rows=MAX_ROWS)
        model.piece_rows = PIECE_ROWS
    serve(catalog, folder, "square", onnx_files.identity("FP32", ["n", "n"]))
    return catalog


@pytest.fixture(scope="module")
def inference(catalog: Catalog) -> Inference:
    return Inference(catalog, Regions(), 2**20)


@pytest.fixture(scope="module")
def model(catalog: Catalog) -> Model:
    return catalog.find("linear")


def pair(rows: int, *outputs: str) -> Call:
    x = np.ones((rows, 2), np.float32)
    request = infer_request("pair", {"a": x, "b": x})
    for name in outputs:
        request.outputs.add(name=name)
    return Call(request.SerializeToString())


def square(size: int) -> Call:
    x = np.ones((size, size), np.float32)
    return Call(infer_request("square", {"x": x}).SerializeToString())


def decide(inference: Inference, calls: Sequence[Call]) -> list[Batch]:
    decided = batches(inference.prepare(calls))
    assert [call.answer for call in calls] == [None] * len(calls)
    return decided


def calls_of(batch: Batch) -> list[Call]:
    return [call for portion in batch.portions for call in portion.calls]


def rows_of(decided: Sequence[Batch]) -> list[list[int]]:
    """The rows of each call in each batch."""
    return [[p.plan.rows for p in batch.portions for _ in p.calls] for batch in decided]


def test_nothing_is_no_batch() -> None:
    assert batches([]) == []


def test_calls_of_one_form_are_one_job(inference: Inference, model: Model) -> None:
    calls = [linear(factor) for factor in (1, 2, 3)]
    (batch,) = decide(inference, calls)
    assert (batch.model, batch.rows, batch.large) == (model, 3, False)
    ((job, portion),) = batch.joined().items()
    assert portion.calls == calls
    assert job.rows == 3
    assert [np.frombuffer(tensor, "<f4").tolist() for tensor in job.tensors] == [
        [1, 2, 3, 2, 4, 6, 3, 6, 9]
    ]


def test_calls_of_different_rows_run_together(inference: Inference) -> None:
    calls = [linear(1, 2), linear(1, 3), linear(2, 2)]
    (batch,) = decide(inference, calls)
    assert batch.rows == 7
    assert [job.rows for job in batch.joined()] == [4, 3]
    assert calls_of(batch) == [calls[0], calls[2], calls[1]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1] * 19, [[1] * 8, [1] * 8, [1] * 3]),
        ([3] * 5, [[3, 3], [3, 3], [3]]),
        ([8, 8], [[8], [8]]),
        ([5, 3, 1], [[5, 3], [1]]),
        ([5, 4, 4], [[5], [4, 4]]),
        ([2, 9, 3], [[2], [9], [3]]),
        ([2, 30, 3], [[2], [30], [3]]),
        ([30, 30], [[30], [30]]),
    ],
)
def test_a_batch_ends_at_the_rows_that_pay(
    inference: Inference, rows: list[int], expected: list[list[int]]
) -> None:
    decided = decide(inference, [linear(1, count) for count in rows])
    assert rows_of(decided) == expected
    assert [batch.rows for batch in decided] == list(map(sum, expected))


def test_models_and_kinds_never_share_a_batch(inference: Inference) -> None:
    calls = [linear(), pair(1), pair(1, "total"), linear(), pair(2), pair(2, "total")]
    decided = decide(inference, calls)
    assert [calls_of(batch) for batch in decided] == [
        [calls[0], calls[3]],
        [calls[1], calls[4]],
        [calls[2], calls[5]],
    ]


def test_calls_that_are_not_by_rows_run_one_by_one(inference: Inference) -> None:
    calls = [square(2), square(3), square(2)]
    decided = decide(inference, calls)
    assert [calls_of(batch) for batch in decided] == [[calls[0]], [calls[2]], [calls[1]]]
    assert [(batch.rows, batch.large) for batch in decided] == [(1, False)] * 3


def test_calls_without_rows_run_one_by_one(inference: Inference) -> None:
    decided = decide(inference, [linear(1, 0), linear(1, 0), linear(1, 2)])
    assert [len(calls_of(batch)) for batch in decided] == [1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "large"), [(MAX_ROWS + 1, False), (PIECE_ROWS, False), (PIECE_ROWS + 1, True)]
)
def test_only_a_call_above_the_rows_of_a_piece_is_large(
    inference: Inference, rows: int, large: bool
) -> None:
    (batch,) = decide(inference, [linear(1, rows)])
    assert batch.large is large


def test_calls_that_have_to_wait_keep_their_deadline_and_whether_they_are_wanted(
    inference: Inference,
) -> None:
    def there() -> bool:
        return True

    calls = [linear(deadline=1e9), linear(active=there), linear(1, 2, deadline=2e9)]
    (batch,) = decide(inference, calls)
    assert [(job.rows, job.deadline, job.active) for job in batch.separate()] == [
        (1, 1e9, None),
        (1, None, there),
        (2, 2e9, None),
    ]
    assert [portion.calls for portion in batch.separate().values()] == [[call] for call in calls]
    # Of the rows of several callers neither can be said.
    assert [(job.rows, job.deadline, job.active) for job in batch.joined()] == [
        (2, None, None),
        (2, 2e9, None),
    ]


def test_what_failed_together_runs_alone(inference: Inference) -> None:
    calls = [linear(1, 2), linear(2, 2), linear(3, 2)]
    (portion,) = inference.prepare(calls)
    assert [calls_of(batch) for batch in alone(portion)] == [[call] for call in calls]
    assert [batch.rows for batch in alone(portion)] == [2, 2, 2]


@given(st.lists(st.integers(1, 30), max_size=40))
def test_every_call_is_in_one_batch_and_no_batch_is_too_large(
    inference: Inference, rows: list[int]
) -> None:
    calls = [linear(1, count) for count in rows]
    decided = decide(inference, calls)
    got = [call for batch in decided for call in calls_of(batch)]
    assert sorted(map(id, got)) == sorted(map(id, calls))
    for batch, counts in zip(decided, rows_of(decided), strict=True):
        assert batch.rows == sum(counts)
        assert batch.rows <= MAX_ROWS or len(counts) == 1
        assert batch.large is (batch.rows > PIECE_ROWS)


def large_job(rows: int) -> Job:
    x = np.arange(2 * rows, dtype="<f4")
    return Job(KIND, [x.tobytes()], rows, deadline=1e9, active=lambda: True)


def run(piece: Job) -> None:
    """Answer the sum and the double of each row."""
    x = np.frombuffer(piece.tensors[0], "<f4").reshape(piece.rows, 2)
    piece.answers = [x.sum(axis=1).tobytes(), (2 * x).tobytes()]
    piece.shapes = [(piece.rows,), (piece.rows, 2)]
    piece.waited_ns, piece.ran_ns = 3, 5


@pytest.mark.parametrize("rows", [4, 7, 8, 9])
def test_a_job_has_the_answers_of_its_pieces(rows: int) -> None:
    job, whole = large_job(rows), large_job(rows)
    counts = []
    for piece in pieces(job, 4):
        assert (piece.kind, piece.deadline, piece.active) == (KIND, job.deadline, job.active)
        counts.append(piece.rows)
        run(piece)
    run(whole)
    assert counts == [4] * (rows // 4) + [rows % 4] * (rows % 4 > 0)
    assert (job.answers, job.shapes, job.error) == (whole.answers, whole.shapes, None)
    assert (job.waited_ns, job.ran_ns) == (3 * len(counts), 5 * len(counts))


def test_no_piece_follows_one_that_failed() -> None:
    job = large_job(20)
    error = RunError("m", "on some rows")
    seen = 0
    for piece in pieces(job, 4):
        seen += 1
        run(piece)
        piece.error = error if seen == 2 else None
    assert seen == 2
    assert job.error is error
    assert job.answers == ()
