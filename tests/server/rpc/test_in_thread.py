"""Calls on a thread that waits for them."""

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import onnx_files
from support.calls import answer, classified, divide, linear, quotient, runs, serve
from support.wire import infer_request

from forwardpass.server.engine.model import Model
from forwardpass.server.errors import (
    DeadlineExpiredError,
    InputsNotTakenError,
    InvalidTensorError,
    ModelNotFoundError,
)
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc import plan
from forwardpass.server.rpc.in_thread import infer
from forwardpass.server.rpc.infer import Call, Inference, Reply
from forwardpass.server.rpc.regions import Regions


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def model(catalog: Catalog, tmp_path: Path) -> Model:
    return serve(catalog, tmp_path, "linear", onnx_files.linear())


@pytest.fixture
def inference(catalog: Catalog) -> Inference:
    return Inference(catalog, Regions(), 2**20)


def test_calls_that_come_together_are_one_run_and_answered_in_their_order(
    inference: Inference, model: Model
) -> None:
    calls = [linear(1, 2), linear(2), linear(3, 2), linear(4)]
    assert infer(inference, calls) == [call.answer for call in calls]
    assert runs(model) == {6: 1}
    for factor, call in enumerate(calls, 1):
        single = linear(factor)
        infer(inference, [single])
        assert answer(call) == answer(single) * len(answer(call))


def test_bad_calls_are_answered_beside_good_ones(inference: Inference, model: Model) -> None:
    unknown = Call(infer_request("nothing", {}).SerializeToString())
    wrong = Call(infer_request("linear", {"x": np.ones((1, 4), np.float32)}).SerializeToString())
    good = linear()
    infer(inference, [unknown, good, wrong])
    assert isinstance(unknown.answer, ModelNotFoundError)
    assert isinstance(wrong.answer, InvalidTensorError)
    assert len(answer(good)) == 1


def test_a_call_of_many_rows_runs_in_pieces_beside_small_ones(
    inference: Inference, model: Model
) -> None:
    piece_rows = model.piece_rows
    before, large, after = linear(1), linear(1, 2 * piece_rows + 1), linear(1)
    infer(inference, [before, large, after])
    assert answer(large) == answer(before) * (2 * piece_rows + 1)
    assert answer(after) == answer(before)
    assert sum(rows * count for rows, count in runs(model).items()) == 2 * piece_rows + 3
    assert max(runs(model)) == piece_rows


def test_a_large_call_ends_with_the_error_of_the_piece_that_failed(
    inference: Inference, catalog: Catalog, tmp_path: Path
) -> None:
    model = serve(catalog, tmp_path, "quotient", quotient())
    model.piece_rows = 2
    call = divide([8] * 7, [2, 2, 2, 0, 2, 2, 2])
    infer(inference, [call])
    assert isinstance(call.answer, InputsNotTakenError)
    assert runs(model) == {2: 1}


def test_one_callers_failing_rows_do_not_fail_the_others(
    inference: Inference, catalog: Catalog, tmp_path: Path
) -> None:
    model = serve(catalog, tmp_path, "quotient", quotient())
    assert model.batching.max_rows > 5
    calls = [divide([7], [2]), divide([1], [0]), divide([9], [3]), divide([8, 6], [4, 2])]
    infer(inference, calls)
    assert isinstance(calls[1].answer, InputsNotTakenError)
    assert [answer(calls[index]) for index in (0, 2, 3)] == [[3], [3], [2, 3]]


def test_each_call_keeps_its_own_deadline_while_it_waits(
    inference: Inference, model: Model
) -> None:
    late, patient = linear(deadline=time.monotonic() + 0.05), linear()
    with ThreadPoolExecutor(1) as threads:
        assert model.queue.enter(list)
        try:
            future = threads.submit(infer, inference, [late, patient])
            while model.queue.waiting != 1 or time.monotonic() < (late.deadline or 0):
                time.sleep(0.001)
        finally:
            model.queue.lead([])
        future.result(10)
    assert isinstance(late.answer, DeadlineExpiredError)
    assert len(answer(patient)) == 1
    assert runs(model) == {1: 1}


def test_what_is_kept_of_a_form_has_nothing_of_a_long_id(
    inference: Inference, model: Model
) -> None:
    infer(inference, [linear(1, rows, id="i" * 10_000) for rows in range(1, 20)])
    infer(inference, [linear(1, 30, id="i" * 10)])

    plans = inference._plans()
    kept = [form.prefix + form.id_field for form in plans.forms.values()]
    assert len(kept) == 1
    assert all(len(head) < 100 for head in plans._by_head)


@pytest.mark.parametrize(
    ("limit", "says"),
    [("MAX_TEXTS", "at most 10 classes, got 12"), ("MAX_RANKED", "at most 10 scores, got 12")],
)
def test_a_classification_of_too_much_is_refused(
    inference: Inference, model: Model, monkeypatch: pytest.MonkeyPatch, limit: str, says: str
) -> None:
    monkeypatch.setattr(plan, limit, 10)
    fits, exceeds = classified(5, 2), classified(6, 2)

    infer(inference, [fits, exceeds])

    assert isinstance(fits.answer, Reply)
    assert isinstance(exceeds.answer, InvalidTensorError)
    assert says in str(exceeds.answer)
    # One for each row.
    single = classified(6, 1)
    infer(inference, [single])
    assert isinstance(single.answer, Reply) == (limit == "MAX_TEXTS")


def test_all_classes_there_are_may_be_asked_for_by_any_number(
    inference: Inference, model: Model
) -> None:
    call = classified(1, 2**63 - 1)
    infer(inference, [call])
    assert isinstance(call.answer, Reply)


def test_a_call_that_fails_does_not_keep_itself_alive(inference: Inference) -> None:
    # Its message may be large, and Python seldom looks for garbage.
    message = np.frombuffer(infer_request("nothing", {}).SerializeToString(), np.uint8).copy()
    here = weakref.ref(message)
    gc.disable()
    try:
        (error,) = infer(inference, [Call(message.data)])
        assert isinstance(error, ModelNotFoundError)
        del error, message
        assert here() is None
    finally:
        gc.enable()
