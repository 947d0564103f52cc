"""What a server waits for: its first model, and time or memory for one that had none."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support import onnx_files
from support.living import Served, serving
from support.process import PROGRAM
from support.transports import default_transport
from support.versions import BROKEN, put, remove

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.repository import lifecycle
from forwardpass.server.repository.disk import ModelFile, RepositoryError
from forwardpass.server.repository.loader import Loader

Code = grpc.StatusCode
Health = health_pb2.HealthCheckResponse


def ready(served: Served) -> bool:
    """Whether it is, by all who say so."""
    said = served.stub.call("ServerReady", b"", pb.ServerReadyResponse).ready
    assert said == (served.health("") == Health.SERVING) == served.server.ready
    return said


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def test_a_server_of_no_model_starts_and_is_ready_with_the_first_that_answers(
    empty: Path, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(empty, **how) as served:
        assert served.stub.call("ServerLive", b"", pb.ServerLiveResponse).live
        assert not ready(served)
        assert f"no model of {empty} answers yet: not ready until one does" in caplog.text

        put(empty, "bad", 1, BROKEN)
        served.until(lambda: "do not parse" in served.reason("bad"))
        assert not ready(served)

        put(empty, "m", 1, 1)
        served.until_answer((1, 1))
        assert ready(served)

        remove(empty, "m")
        served.until(lambda: served.outcome() is Code.NOT_FOUND)
        assert ready(served)


def test_without_a_look_at_changes_an_empty_folder_is_refused_with_the_way_out(
    empty: Path,
) -> None:
    with pytest.raises(RepositoryError, match="found none; put one there first, or leave out"):
        Server(Config(models=empty, port=0, watch=False))


def test_callers_who_may_load_can_bring_the_first_model(empty: Path) -> None:
    with serving(empty, watch=False, model_control=True) as served:
        put(empty, "m", 1, 1)
        assert not ready(served)

        served.stub.call(
            "RepositoryModelLoad",
            pb.RepositoryModelLoadRequest(model_name="m").SerializeToString(),
            pb.RepositoryModelLoadResponse,
        )

        assert served.ask() == (1, 1)
        assert ready(served)


def test_models_that_all_fail_for_good_are_not_waited_for(empty: Path) -> None:
    put(empty, "bad", 1, BROKEN)

    with serving(empty) as served:
        assert ready(served)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_waits_ends_by_a_signal(end: signal.Signals, empty: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(empty), "60", "60", default_transport()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "answers yet" in process.stderr.readline()
        process.send_signal(end)
        out, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    assert out == "", "it never was ready"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_S", 0.3)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were tried; those that begin with `busy` fail twice for want of
    time, as the trial tells."""
    tried: list[str] = []
    load = Loader.load

    def load_later(loader: Loader, file: ModelFile) -> Model:
        tried.append(file.name)
        if file.name.startswith("busy") and tried.count(file.name) < 3:
            raise ModelFailedError(file.name, file.version, "too slow", may_pass=True)
        return load(loader, file)

    monkeypatch.setattr(Loader, "load", load_later)
    return tried


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("watch", [True, False])
def test_what_failed_for_want_of_time_is_tried_again_after_pauses_that_grow(
    root: Path, watch: bool, tries: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    put(root, "busy", 1, 7)
    put(root, "bad", 1, BROKEN)

    with serving(root, watch=watch) as served:
        assert ready(served), "m answers"
        assert served.reason("busy") in {
            f"too slow; it will be tried again in {pause} s" for pause in (0.3, 0.6)
        }
        served.until_answer((1, 7), "busy")

    assert served.reason("busy") == ""
    assert tries == ["bad", "busy", "m", "busy", "busy"], "and what is wrong for good only once"
    # Whether the log has lines of INFO depends on the tests before.
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    pauses = [line.rpartition("again in ")[2] for line in said if line.startswith("model 'busy'")]
    assert pauses == ["0.3 s", "0.6 s"]


@pytest.mark.usefixtures("short_pauses")
def test_a_server_whose_only_model_is_tried_again_is_ready_when_it_answers(
    empty: Path, tries: list[str]
) -> None:
    put(empty, "busy", 1, 7)

    with serving(empty) as served:
        assert not ready(served)
        served.until_answer((1, 7), "busy")
        assert ready(served)


@pytest.mark.usefixtures("short_pauses")
def test_a_new_content_that_had_no_time_leaves_the_old_one_answering(
    root: Path, monkeypatch: pytest.MonkeyPatch, tries: list[str]
) -> None:
    with serving(root) as served:
        tries.clear()
        put(root, "m", 2, 2)
        served.until_answer((2, 2))
        put(root, "busy", 1, 7)
        served.until(lambda: "again in" in served.reason("busy"))
        # Another file has its own first pause.
        put(root, "busy", 1, 8)
        served.until_answer((1, 8), "busy")
        assert served.ask() == (2, 2)


def test_the_longest_pause_is_an_hour(
    root: Path, monkeypatch: pytest.MonkeyPatch, tries: list[str]
) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_S", 0.3)
    monkeypatch.setattr(lifecycle, "LAST_PAUSE_S", 0.4)
    put(root, "busy", 1, 7)

    with serving(root) as served:
        served.until(lambda: "again in 0.4 s" in served.reason("busy"))


def test_what_is_there_no_memory_for_is_tried_again_and_says_both_numbers(
    root: Path, tmp_path: Path
) -> None:
    """In a process with a limit on its memory, which a file of half its size is beyond."""
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    with (root / "large.onnx").open("wb") as file:
        file.truncate(200 * 2**20)
    program = LIMITED + PROGRAM.replace("lambda: print(server.port, flush=True)", "tell")
    command = [sys.executable, "-c", program, str(root), "0", "0", default_transport()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=100)

    reason, answered = out.splitlines()
    assert answered == "linear answers"
    assert reason.startswith("file 'large.onnx': expected a model that fits into memory, of which ")
    assert "MiB are left (the process' RLIMIT_DATA of 512 MiB, " in reason
    assert "got one of 200 MiB, which takes up to 416 MiB more while it is loaded; raise" in reason
    assert reason.endswith("it will be tried again in 10 s")


LIMITED = """
import os, resource
resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29))

def tell():
    entries = {entry.name: entry for entry in server.catalog.index()}
    print(entries["large"].reason)
    model = server.catalog.find("linear")
    print("linear answers", flush=True)
    os._exit(0)
"""
