"""ModelStatistics tells exactly what was answered."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import onnx_files
from support.rpc import Stub
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

pytestmark = pytest.mark.usefixtures("transport")

Code = grpc.StatusCode

THREADS = 16


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Stub]:
    """A server of models that no other test calls."""
    root = tmp_path_factory.mktemp("counted")
    for place, model in {
        "linear/1": onnx_files.linear(),
        "linear/2": onnx_files.linear(),
        "fixed/1": onnx_files.identity("FP32", [2, 3]),
        "pick/1": onnx_files.pick(),
    }.items():
        onnx_files.save(model, root / place / "model.onnx")
    (root / "garbage" / "1").mkdir(parents=True)
    (root / "garbage" / "1" / "model.onnx").write_bytes(b"this is no model")
    with Server(Config(models=root, port=0)) as server, Stub(server.port) as stub:
        yield stub


def statistics(stub: Stub, name: str = "", version: str = "") -> Sequence[pb.ModelStatistics]:
    request = pb.ModelStatisticsRequest(name=name, version=version)
    return stub.call("ModelStatistics", request, pb.ModelStatisticsResponse).model_stats


def one(stub: Stub, name: str, version: str) -> pb.ModelStatistics:
    (found,) = statistics(stub, name, version)
    return found


def linear(rows: int, version: str = "2") -> pb.ModelInferRequest:
    x = np.ones((rows, 3), np.float32)
    return infer_request("linear", {"x": x}, model_version=version)


def test_all_versions_of_all_models_are_listed_that_answer(stub: Stub) -> None:
    def listed(name: str) -> list[tuple[str, str]]:
        return [(found.name, found.version) for found in statistics(stub, name)]

    assert listed("") == [("fixed", "1"), ("linear", "1"), ("linear", "2"), ("pick", "1")]
    assert listed("linear") == [("linear", "1"), ("linear", "2")]
    assert not listed("garbage")


def test_a_model_that_was_never_called_has_zeros(stub: Stub) -> None:
    found = one(stub, "linear", "1")

    zero = pb.StatisticDuration()
    assert (found.last_inference, found.inference_count, found.execution_count) == (0, 0, 0)
    assert found.inference_stats.success == zero
    assert found.inference_stats.fail == zero
    assert not found.batch_stats


def test_calls_rows_and_runs_are_counted(stub: Stub) -> None:
    before = one(stub, "linear", "2")
    started = time.time()
    for rows in (1, 5, 5):
        stub.infer(linear(rows))

    after = one(stub, "linear", "2")

    assert after.inference_count - before.inference_count == 11
    assert after.execution_count - before.execution_count == 3
    assert started - 1 <= after.last_inference / 1000 <= time.time() + 1
    told, told_before = after.inference_stats, before.inference_stats
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(told, part).count - getattr(told_before, part).count == 3
    for part in ("success", "compute_input", "compute_infer", "compute_output"):
        assert getattr(told, part).ns > getattr(told_before, part).ns
    assert told.fail == told_before.fail
    assert told.cache_hit.count == told.cache_miss.count == 0


def test_a_model_without_batch_axis_counts_calls(stub: Stub) -> None:
    before = one(stub, "fixed", "1")
    stub.infer(infer_request("fixed", {"x": np.ones((2, 3), np.float32)}))

    after = one(stub, "fixed", "1")

    assert after.inference_count - before.inference_count == 1
    assert [batch.batch_size for batch in after.batch_stats] == [1]


def test_a_call_larger_than_the_largest_useful_batch_takes_several_runs(stub: Stub) -> None:
    before = one(stub, "linear", "2")
    rows = 10_000
    stub.infer(linear(rows))

    after = one(stub, "linear", "2")

    assert after.inference_count - before.inference_count == rows
    largest = max(batch.batch_size for batch in after.batch_stats)
    assert after.execution_count - before.execution_count == -(-rows // largest)
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("linear", infer_request("linear", {"x": np.ones((1, 2), np.float32)})),
        # The second call of a form is not validated again: it fails in onnxruntime.
        ("pick", infer_request("pick", {"index": np.array([9])})),
    ],
)
def test_failures_are_counted_apart(stub: Stub, good: str, bad: pb.ModelInferRequest) -> None:
    (before,) = statistics(stub, good)[-1:]
    for _ in range(2):
        stub.refusal("ModelInfer", bad)

    (after,) = statistics(stub, good)[-1:]

    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 2
    assert after.inference_stats.fail.ns > before.inference_stats.fail.ns
    assert after.inference_stats.success == before.inference_stats.success
    assert after.inference_count == before.inference_count


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("nothing", "", "'nothing'"),
        ("nothing", "1", "'nothing'"),
        ("", "1", "''"),
        ("linear", "3", "'3'"),
        ("linear", "abc", "'abc'"),
    ],
)
def test_what_is_not_there_is_an_invalid_argument(
    stub: Stub, name: str, version: str, says: str
) -> None:
    refusal = stub.refusal("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version))

    assert refusal.code is Code.INVALID_ARGUMENT
    assert says in refusal.message


def test_a_version_that_failed_says_why(stub: Stub) -> None:
    request = pb.ModelStatisticsRequest(name="garbage", version="1")

    assert stub.refusal("ModelStatistics", request).code is Code.FAILED_PRECONDITION


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 64), max_size=12), min_size=THREADS, max_size=THREADS),
)
def test_everything_adds_up_among_many_callers(stub: Stub, rows: list[list[int]]) -> None:
    before = one(stub, "linear", "2")

    def call(sizes: list[int]) -> None:
        for size in sizes:
            stub.infer(linear(size))

    started = time.perf_counter_ns()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, rows))
    elapsed = time.perf_counter_ns() - started

    after = one(stub, "linear", "2")
    calls = sum(map(len, rows))
    assert after.inference_count - before.inference_count == sum(map(sum, rows))
    success = after.inference_stats.success
    assert success.count - before.inference_stats.success.count == calls
    assert success.ns - before.inference_stats.success.ns <= THREADS * elapsed
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert success.ns == sum(getattr(after.inference_stats, part).ns for part in parts)
    runs = {batch.batch_size: batch.compute_infer for batch in after.batch_stats}
    earlier = {batch.batch_size: batch.compute_infer for batch in before.batch_stats}
    new = {
        size: run.count - (earlier[size].count if size in earlier else 0)
        for size, run in runs.items()
    }
    assert sum(new.values()) == after.execution_count - before.execution_count <= calls
    assert sum(size * count for size, count in new.items()) == sum(map(sum, rows))
