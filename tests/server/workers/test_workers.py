"""Several processes are one server: what one of them acknowledges holds for all."""

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.rpc import Stub
from support.versions import BROKEN, ask, label, put, question, remove
from support.waiting import eventually
from support.workers import Processes, processes

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.config import Transport

WORKERS = 2
OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Path:
    root = tmp_path_factory.mktemp(f"workers-{transport}")
    for name in ("m", "counted", "watched", "unloaded"):
        put(root, name, 1, 1)
    return root


@pytest.fixture(scope="module")
def served(
    root: Path, transport: Transport, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    log = tmp_path_factory.mktemp("log") / "log"
    arguments = ("--model-control", "--shared-memory", "--metrics-port", "0")
    with processes(root, log, *arguments, count=WORKERS) as served:
        yield served


@pytest.fixture(scope="module")
def stubs(served: Processes) -> list[Stub]:
    """One of each worker."""
    stubs = served.stub_of_each()
    assert len(stubs) == WORKERS
    return list(stubs.values())


def load(stub: Stub, name: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    stub.call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)


def index(stub: Stub, name: str) -> list[tuple[str, str, str]]:
    reply = stub.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    return [
        (entry.version, entry.state, entry.reason) for entry in reply.models if entry.name == name
    ]


def health(stub: Stub, name: str) -> int:
    theirs: Any = health_pb2_grpc.HealthStub(stub.channel)
    return int(theirs.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status)


def scraped(served: Processes) -> str:
    port = re.search(r"metrics on port (\d+)", served.log.read_text())
    assert port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=20) as page:
        return str(page.read().decode())


def sample(page: str, name: str) -> float:
    (line,) = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def test_what_a_load_has_acknowledged_is_what_every_worker_answers(
    root: Path, stubs: list[Stub]
) -> None:
    for number in range(2, 12):
        put(root, "m", 1, number)
        load(stubs[number % WORKERS], "m")
        assert [ask(stub, "m").number for stub in stubs] == [number] * WORKERS


def test_a_broken_file_is_refused_at_all_and_the_model_before_answers_on(
    root: Path, stubs: list[Stub]
) -> None:
    put(root, "m", 1, 50)
    load(stubs[0], "m")
    put(root, "m", 1, BROKEN)
    refusal = stubs[1].refusal("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="m"))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    for stub in stubs:
        assert ask(stub, "m").number == 50
        ((_, state, reason),) = index(stub, "m")
        assert state == "READY"
        assert "changed on disk, and the new file fails" in reason
    put(root, "m", 1, 51)
    load(stubs[1], "m")
    assert [index(stub, "m") for stub in stubs] == [[("1", "READY", "")]] * WORKERS


def test_what_is_unloaded_is_gone_from_all_until_it_is_loaded(stubs: list[Stub]) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name="unloaded")
    for stub in stubs:
        stub.call("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)
        for each in stubs:
            assert each.outcome("ModelInfer", question("unloaded")) is NOT_FOUND
            assert health(each, "unloaded") == health_pb2.HealthCheckResponse.NOT_SERVING
        load(stub, "unloaded")
        for each in stubs:
            assert ask(each, "unloaded").number == 1
            assert health(each, "unloaded") == health_pb2.HealthCheckResponse.SERVING


def test_an_unknown_model_cannot_be_loaded(stubs: list[Stub]) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="nothing")
    assert stubs[1].refusal("RepositoryModelLoad", request).code is NOT_FOUND


def test_files_and_labels_that_change_are_found_by_all(root: Path, stubs: list[Stub]) -> None:
    put(root, "watched", 2, 2)
    label(root, "watched", {"stable": 1})
    everywhere(stubs, lambda stub: ask(stub, "watched") == (2, 2))
    everywhere(stubs, lambda stub: ask(stub, "watched", "stable") == (1, 1))
    remove(root, "watched")
    gone = question("watched")
    everywhere(stubs, lambda stub: stub.outcome("ModelInfer", gone) is NOT_FOUND)


def everywhere(stubs: list[Stub], holds: Callable[[Stub], bool]) -> None:
    """Wait until it holds at every worker."""
    eventually(lambda: all(map(holds, stubs)))


def test_shared_memory_is_registered_with_all_or_none(stubs: list[Stub]) -> None:
    key = f"/fp-workers-{os.getpid()}"
    path = Path("/dev/shm") / key[1:]
    path.write_bytes(bytes(64))
    try:
        request = pb.SystemSharedMemoryRegisterRequest(name="r", key=key, byte_size=64)
        stubs[0].call("SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)
        again = stubs[1].refusal("SystemSharedMemoryRegister", request)
        assert again.code is grpc.StatusCode.ALREADY_EXISTS
        for stub in stubs:
            assert regions(stub) == [("r", key, 0, 64)]
        stubs[1].call(
            "SystemSharedMemoryUnregister",
            pb.SystemSharedMemoryUnregisterRequest(),
            pb.SystemSharedMemoryUnregisterResponse,
        )
        assert [regions(stub) for stub in stubs] == [[]] * WORKERS
    finally:
        path.unlink()


def regions(stub: Stub) -> list[tuple[str, str, int, int]]:
    request = pb.SystemSharedMemoryStatusRequest()
    reply = stub.call("SystemSharedMemoryStatus", request, pb.SystemSharedMemoryStatusResponse)
    return [(r.name, r.key, r.offset, r.byte_size) for r in reply.regions.values()]


def test_log_settings_are_those_of_all(stubs: list[Stub]) -> None:
    for stub, iso in zip(stubs, ("ISO8601", "default"), strict=True):
        request = pb.LogSettingsRequest()
        request.settings["log_format"].string_param = iso
        stub.call("LogSettings", request, pb.LogSettingsResponse)
        for each in stubs:
            reply = each.call("LogSettings", pb.LogSettingsRequest(), pb.LogSettingsResponse)
            assert reply.settings["log_format"].string_param == iso
    wrong = pb.LogSettingsRequest()
    wrong.settings["log_error"].bool_param = False
    wrong.settings["log_info"].bool_param = True
    assert stubs[0].refusal("LogSettings", wrong).code is grpc.StatusCode.INVALID_ARGUMENT


def test_statistics_and_metrics_are_sums_over_all(served: Processes, stubs: list[Stub]) -> None:
    for calls, stub in enumerate(stubs, 3):
        for _ in range(calls):
            ask(stub, "counted")
        assert stub.outcome("ModelInfer", question("counted", width=5)) is not OK
    total = sum(range(3, 3 + WORKERS))
    request = pb.ModelStatisticsRequest(name="counted")
    for stub in stubs:
        reply = stub.call("ModelStatistics", request, pb.ModelStatisticsResponse)
        (model,) = reply.model_stats
        assert model.inference_count == total
        assert model.execution_count == total
        assert model.inference_stats.success.count == total
        assert model.inference_stats.success.ns > 0
        assert sum(batch.compute_infer.count for batch in model.batch_stats) == total
    page = scraped(served)
    assert sample(page, 'forwardpass_calls_total{code="OK",model="counted",version="1"}') == total
    failed = 'forwardpass_calls_total{code="INVALID_ARGUMENT",model="counted",version="1"}'
    assert sample(page, failed) == WORKERS
    seconds = 'forwardpass_call_seconds_count{model="counted",phase="total",version="1"}'
    assert sample(page, seconds) == total
    assert sample(page, "forwardpass_workers") == WORKERS
    assert sample(page, "forwardpass_restarts_total") == 0
    assert sample(page, "forwardpass_ready") == 1
    assert sample(page, "forwardpass_connections") >= WORKERS
    assert sample(page, "process_resident_memory_bytes") > 2**25
    before = sample(page, "process_cpu_seconds_total")
    assert sample(scraped(served), "process_cpu_seconds_total") >= before > 0


def test_a_file_is_proven_once_for_all(root: Path, served: Processes, stubs: list[Stub]) -> None:
    put(root, "once", 1, 7)
    load(stubs[0], "once")
    assert [ask(stub, "once").number for stub in stubs] == [7] * WORKERS
    time.sleep(0.2)
    assert served.log.read_text().count("model 'once' version 1 is ready") == 1


def test_sighup_is_done_when_all_have_read(
    served: Processes, root: Path, stubs: list[Stub]
) -> None:
    put(root, "hup", 1, 9)
    before = served.log.read_text().count("SIGHUP: read\n")
    served.send(signal.SIGHUP)
    eventually(lambda: served.log.read_text().count("SIGHUP: read\n") > before)
    assert [ask(stub, "hup").number for stub in stubs] == [9] * WORKERS
