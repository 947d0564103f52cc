"""The life of models while the server runs: what changes on disk, what is loaded by name."""

import gc
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support import hostile_files, onnx_files
from support.living import A_WHILE_S, called_all_the_time, serving
from support.rpc import Stub
from support.versions import BROKEN, answering, put, question, remove

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import ModelFailedError, ModelNotFoundError
from forwardpass.server.repository.disk import ModelFile
from forwardpass.server.repository.loader import Loader

Code = grpc.StatusCode
Health = health_pb2.HealthCheckResponse


def test_a_new_model_is_served(root: Path, how: dict[str, Any]) -> None:
    with serving(root, **how) as served:
        put(root, "new", 3, 30)

        served.until_answer((3, 30), "new")
        assert served.health("new") == Health.SERVING


def test_a_new_version_takes_over_without_a_failed_call(root: Path, how: dict[str, Any]) -> None:
    with serving(root, **how) as served:
        with called_all_the_time(served) as answers:
            put(root, "m", 2, 2)
            served.until_answer((2, 2))

        assert answers == {(1, 1), (2, 2)}
        assert served.ask(version="1") == (1, 1)


@pytest.mark.usefixtures("transport")
def test_a_version_with_new_content_is_replaced_without_a_failed_call(
    root: Path, how: dict[str, Any]
) -> None:
    with serving(root, **how) as served, called_all_the_time(served, ("", "1")) as answers:
        put(root, "m", 1, 11)
        served.until_answer((1, 11))

    assert answers == {(1, 1), (1, 11)}


def test_a_removed_version_is_not_found(root: Path, how: dict[str, Any]) -> None:
    put(root, "m", 2, 2)
    with serving(root, **how) as served:
        remove(root, "m", 2)

        served.until_answer((1, 1))
        assert served.outcome(version="2") is Code.NOT_FOUND
        assert served.health() == Health.SERVING


def test_a_removed_model_is_not_found_and_another_lives_on(root: Path, how: dict[str, Any]) -> None:
    put(root, "other", 1, 5)
    with serving(root, **how) as served:
        remove(root, "m")

        served.until(lambda: served.outcome() is Code.NOT_FOUND)
        assert served.refusal() == "Request for unknown model: 'm' is not found; available: other"
        assert served.health() == Health.NOT_SERVING
        assert served.ask("other") == (1, 5)


def test_a_file_and_a_directory_of_files_are_watched_too(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    flat = tmp_path / "m.onnx"
    for path in (flat, tmp_path):
        onnx_files.save(answering(1), flat)
        with serving(path, **how) as served:
            fresh = onnx_files.save(answering(7), tmp_path / ".fresh")
            fresh.replace(flat)

            served.until_answer((1, 7))


def test_without_watching_nothing_changes(root: Path) -> None:
    with serving(root, watch=False) as served:
        put(root, "m", 2, 2)
        time.sleep(A_WHILE_S)

        assert served.ask() == (1, 1)
        served.server.lifecycle.load("m")
        assert served.ask() == (2, 2)


def test_an_unloaded_model_stays_so_until_it_is_loaded_by_name(root: Path) -> None:
    put(root, "other", 1, 5)
    with serving(root) as served:
        served.server.lifecycle.unload("m")

        assert served.outcome() is served.outcome(version="1") is Code.NOT_FOUND
        assert served.refusal() == "model 'm' was unloaded; available: other"
        assert served.health() == Health.NOT_SERVING
        assert served.reason() == "unloaded"
        ready = served.stub.call(
            "ModelReady", pb.ModelReadyRequest(name="m"), pb.ModelReadyResponse
        )
        assert not ready.ready
        put(root, "m", 2, 2)
        time.sleep(A_WHILE_S)
        assert served.outcome() is Code.NOT_FOUND

        served.server.lifecycle.load("m")
        assert served.ask() == (2, 2)
        assert served.health() == Health.SERVING


def test_loading_by_name_does_not_wait_for_files_to_settle(root: Path) -> None:
    with serving(root) as served:
        for number in range(2, 6):
            put(root, "m", 1, number)
            served.server.lifecycle.load("m")
            assert served.ask() == (1, number)


def test_loading_by_name_tries_again_what_failed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loader.load
    tried = []

    def short_of_memory(self: Loader, file: ModelFile) -> Model:
        tried.append(file.version)
        if len(tried) == 1:
            raise ModelFailedError(file.name, file.version, "no memory")
        return load(self, file)

    monkeypatch.setattr(Loader, "load", short_of_memory)
    with serving(root) as served:
        assert served.reason() == "no memory"
        time.sleep(A_WHILE_S)
        served.server.lifecycle.load("m")
        assert served.ask() == (1, 1)
        served.server.lifecycle.load("m")

    assert tried == [1, 1]


def test_loading_by_name_says_what_is_wrong(root: Path) -> None:
    put(root, "m", 2, BROKEN)
    with serving(root) as served:
        lifecycle = served.server.lifecycle
        with pytest.raises(ModelNotFoundError, match=r"failed to load 'nothing'.*; available: m"):
            lifecycle.load("nothing")
        with pytest.raises(ModelFailedError, match=r"'m' version 2 failed: .*do not parse"):
            lifecycle.load("m")
        lifecycle.unload("nothing")
        remove(root, "m")
        with pytest.raises(ModelNotFoundError, match="available: none"):
            lifecycle.load("m")
        assert served.outcome() is Code.NOT_FOUND
        (root / "circle").symlink_to("circle")
        with pytest.raises(ModelFailedError, match="'circle' failed: its folder cannot be read"):
            lifecycle.load("circle")
        shutil.rmtree(root)
        with pytest.raises(ModelFailedError, match="'m' failed: the repository cannot be read"):
            lifecycle.load("m")


def test_what_is_replaced_is_freed_with_its_last_call(root: Path) -> None:
    with serving(root, watch=False) as served:
        assert served.ask() == (1, 1)
        model = served.server.catalog.find("m")
        session = weakref.ref(model.session)
        gc.disable()
        try:
            put(root, "m", 1, 2)
            served.server.lifecycle.load("m")
            assert served.ask() == (1, 2)
            assert session() is not None
            # As the last call does that began before.
            del model
            served.until(lambda: session() is None)
        finally:
            gc.enable()


def test_what_fails_is_not_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Model]] = []
    load = Loader.load

    def load_and_fail(self: Loader, file: ModelFile) -> Model:
        model = load(self, file)
        made.append(weakref.ref(model))
        raise ModelFailedError(file.name, file.version, "after it was loaded")

    monkeypatch.setattr(Loader, "load", load_and_fail)
    gc.disable()
    try:
        with serving(root) as served:
            assert served.reason() == "after it was loaded"
            (model,) = made
            assert model() is None
    finally:
        gc.enable()


def test_what_is_drained_does_not_say_ready_again(root: Path) -> None:
    with serving(root) as served:
        served.server.drain()
        put(root, "m", 2, 2)
        time.sleep(A_WHILE_S)

        assert served.ask() == (1, 1)
        served.server.lifecycle.load("m")
        assert served.ask() == (2, 2)
        assert served.health() == Health.NOT_SERVING


STARTS = """
import sys, time
from pathlib import Path

from forwardpass.server.app import Server, serve_until_signalled
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits
from forwardpass.server.repository.loader import Loader

load = Loader.load

def load_slowly(self, file):
    if file.name == "slow":
        time.sleep(600)
    return load(self, file)

Loader.load = load_slowly
config = Config(
    models=Path(sys.argv[1]), port=0, drain_s=60, trial_s=600, limits=Limits(general=True)
)
server = Server(config)
print(server.port, flush=True)
serve_until_signalled(server, config, lambda: print("ready", flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["slow", "tried"])
def test_a_signal_while_models_load_ends_the_server_promptly(
    root: Path, name: str, number: signal.Signals
) -> None:
    # The trial of a model, in a process of its own, or its loading in the server's.
    onnx_files.save(hostile_files.loops_long(), root / name / "1" / "model.onnx")
    command = [sys.executable, "-c", STARTS, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with Stub(int(process.stdout.readline())) as stub:
                deadline = time.monotonic() + 10
                while stub.outcome("ModelInfer", question("m")) is not Code.OK:
                    # Not there yet, or still loading: m comes first.
                    assert time.monotonic() < deadline
                assert stub.outcome("ModelInfer", question(name)) is Code.UNAVAILABLE
            time.sleep(0.5)
            process.send_signal(number)

            assert process.wait(3) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()
