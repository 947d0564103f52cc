"""The life of models while the server runs: what changes on disk, by name, under a label."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import hostile_files, onnx_files
from support.rpc import Stub
from support.versions import BROKEN, Answer, answering, ask, label, put, question, remove

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server import lifecycle as lifecycle_module
from forwardpass.server import watching
from forwardpass.server.app import Server
from forwardpass.server.catalog import State
from forwardpass.server.config import Config
from forwardpass.server.errors import ModelFailedError, ModelNotFoundError
from forwardpass.server.lifecycle import SETTLE_S
from forwardpass.server.loading import Loader
from forwardpass.server.model import Model
from forwardpass.server.repository import ModelFile
from forwardpass.server.versions import VersionPolicy

Code = grpc.StatusCode
Health = health_pb2.HealthCheckResponse

PROMPT_S = 5.0
"""Long enough to settle and load on a busy machine, too short for a look that no event asked for
(watching.RESCAN_S)."""
A_WHILE_S = SETTLE_S + 0.35
"""Enough for a change to be picked up, if it were to be."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with version 1 of `m`, which answers 1."""
    root = tmp_path / "repository"
    put(root, "m", 1, 1)
    return root


@pytest.fixture(params=["events", "polling"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How changes are found."""
    return {"poll_s": 0.05} if request.param == "polling" else {}


class Served:
    """A server and a stub of it."""

    def __init__(self, server: Server, stub: Stub) -> None:
        self.server = server
        self.stub = stub

    def ask(self, name: str = "m", version: str = "") -> Answer:
        return ask(self.stub, name, version)

    def outcome(self, name: str = "m", version: str = "") -> grpc.StatusCode:
        return self.stub.outcome("ModelInfer", question(name, version))

    def refusal(self, name: str = "m", version: str = "") -> str:
        return self.stub.refusal("ModelInfer", question(name, version)).message

    def until(self, condition: Callable[[], bool], within_s: float = PROMPT_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, self.server.catalog.index()
            time.sleep(0.01)

    def until_answer(self, answer: tuple[int, float], name: str = "m", version: str = "") -> None:
        self.until(
            lambda: self.outcome(name, version) is Code.OK and self.ask(name, version) == answer
        )

    def reason(self, name: str = "m", version: int = 1) -> str:
        """What the index says of a version; empty for one that it does not list."""
        return next(
            (
                entry.reason
                for entry in self.server.catalog.index()
                if (entry.name, entry.version) == (name, version)
            ),
            "",
        )

    def health(self, name: str = "m") -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        stub_of_theirs: Any = health_pb2_grpc.HealthStub(self.stub.channel)
        return int(stub_of_theirs.Check(request, timeout=10).status)


@contextmanager
def serving(root: Path, **settings: Any) -> Iterator[Served]:
    config = Config(models=root, port=0, **settings)
    with Server(config) as server, Stub(server.port) as stub:
        yield Served(server, stub)


@contextmanager
def called_all_the_time(served: Served, versions: tuple[str, ...] = ("",)) -> Iterator[set[Answer]]:
    """Call from a thread for each version asked; give the answers, and raise what was raised."""
    answers: set[Answer] = set()
    errors: list[BaseException] = []
    end = threading.Event()

    def call(version: str) -> None:
        try:
            ended = False
            while not ended:
                # The last call begins after the end.
                ended = end.is_set()
                answers.add(served.ask(version=version))
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=call, args=[version]) for version in versions]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        end.set()
        for caller in callers:
            caller.join()
    if errors:
        raise errors[0]


# What changes on disk.


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
        assert served.refusal() == "model 'm' not found; available: other"
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


# What goes wrong on disk.


def test_a_version_that_fails_leaves_the_old_one_serving(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(root) as served:
        put(root, "m", 2, BROKEN)

        served.until(lambda: "do not parse" in served.reason("m", 2))
        assert served.ask() == (1, 1)
        assert served.outcome(version="2") is Code.FAILED_PRECONDITION
        assert "do not parse" in served.refusal(version="2")
        assert served.health() == Health.SERVING
        put(root, "other", 1, 1)
        served.until_answer((1, 1), "other")
        assert [r.levelname for r in caplog.records if "version 2" in r.getMessage()] == ["ERROR"]

        put(root, "m", 2, 2)
        served.until_answer((2, 2))
        assert served.reason("m", 2) == ""


def test_a_version_whose_new_content_fails_answers_with_the_old(
    root: Path, how: dict[str, Any]
) -> None:
    with serving(root, **how) as served, called_all_the_time(served, ("", "1")) as answers:
        put(root, "m", 1, BROKEN)

        served.until(lambda: served.reason() != "")
        (entry,) = served.server.catalog.index()
        assert entry.state is State.READY
        assert entry.reason.startswith("changed on disk, and what it is now fails: ")

        put(root, "m", 1, 12)
        served.until_answer((1, 12))
        assert served.reason() == ""
        assert answers >= {(1, 1)}


def test_a_model_that_is_broken_from_the_start_is_served_once_it_is_mended(root: Path) -> None:
    put(root, "late", 1, BROKEN)
    with serving(root) as served:
        assert served.health("late") == Health.NOT_SERVING
        assert served.outcome("late") is Code.FAILED_PRECONDITION

        put(root, "late", 1, 4)

        served.until_answer((1, 4), "late")
        assert served.health("late") == Health.SERVING


def test_a_file_that_is_copied_in_place_bit_by_bit_is_loaded_when_it_is_whole(
    root: Path, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    content = answering(2).SerializeToString()
    path = root / "m" / "2" / "model.onnx"
    with serving(root, **how) as served, called_all_the_time(served) as answers:
        path.parent.mkdir()
        with path.open("wb") as file:
            for start in range(0, len(content), 20):
                file.write(content[start : start + 20])
                file.flush()
                time.sleep(0.02)
        served.until_answer((2, 2))

    assert answers == {(1, 1), (2, 2)}
    assert "failed" not in caplog.text


def test_a_copy_that_pauses_fails_and_is_loaded_when_it_goes_on(root: Path) -> None:
    content = answering(2).SerializeToString()
    path = root / "m" / "2" / "model.onnx"
    with serving(root) as served, called_all_the_time(served) as answers:
        path.parent.mkdir()
        path.write_bytes(content[:100])
        served.until(lambda: served.reason("m", 2) != "")
        path.write_bytes(content)
        served.until_answer((2, 2))

    assert answers == {(1, 1), (2, 2)}


def test_a_version_that_is_removed_and_written_again_is_never_missed(
    root: Path, how: dict[str, Any]
) -> None:
    with serving(root, **how) as served, called_all_the_time(served, ("", "1")) as answers:
        remove(root, "m")
        time.sleep(0.02)
        put(root, "m", 1, 13)
        served.until_answer((1, 13))

    assert answers == {(1, 1), (1, 13)}


def test_a_repository_that_vanishes_goes_on_answering_and_may_come_back(
    root: Path, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    away = root.with_name("away")
    with serving(root, **how) as served:
        with called_all_the_time(served) as answers:
            root.rename(away)
            time.sleep(A_WHILE_S)
            put(away, "m", 2, 2)
            away.rename(root)
            served.until_answer((2, 2))
            # The new folder is watched as the old one was.
            put(root, "m", 3, 3)
            served.until_answer((3, 3))

        assert answers == {(1, 1), (2, 2), (3, 3)}
        assert caplog.text.count("no such file or directory; what was loaded goes on") == 1


def test_links_in_circles_and_links_to_nothing_stop_nobody(root: Path) -> None:
    with serving(root) as served:
        (root / "circle").symlink_to("circle")
        (root / "self").symlink_to(".")
        (root / "gone").symlink_to("nowhere")
        (root / "odd").mkdir()
        (root / "odd" / "1").symlink_to("1")
        (root / "odd" / "2").symlink_to("nowhere")
        put(root, "m", 2, 2)

        served.until_answer((2, 2))
        served.until(lambda: "symbolic links" in served.reason("odd", 1))
        assert served.outcome("odd") is Code.FAILED_PRECONDITION
        assert {entry.name for entry in served.server.catalog.index()} == {"m", "odd"}


def test_a_link_out_of_the_repository_is_refused(root: Path) -> None:
    elsewhere = onnx_files.save(answering(9), root.parent / "elsewhere" / "1" / "model.onnx")
    with serving(root) as served:
        (root / "linked").symlink_to(elsewhere.parents[1])

        served.until(lambda: "leads out of it" in served.reason("linked", 1))
        assert served.outcome("linked") is Code.FAILED_PRECONDITION


def test_a_volume_of_kubernetes_is_followed_when_it_is_swapped(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    # As kubelet writes ConfigMaps: names lead through ..data, which is swapped by a rename.
    for number in (1, 2):
        put(tmp_path / f"..2026_{number}", "m", 1, number)
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "m").symlink_to("..data/m")
    with serving(tmp_path, **how) as served:
        assert served.ask() == (1, 1)

        (tmp_path / "..data_tmp").symlink_to("..2026_2")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        shutil.rmtree(tmp_path / "..2026_1")

        served.until_answer((1, 2))


def test_a_name_that_no_message_can_carry_stops_nobody(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(root) as served:
        put(root, os.fsdecode(b"\xff"), 1, 1)
        put(root, "m", 2, 2)

        served.until_answer((2, 2))
        index = served.stub.call(
            "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse
        )
        assert {model.name for model in index.models} == {"m"}
        assert caplog.text.count("its name is not UTF-8") == 1


def test_two_files_for_one_version_leave_what_was_there_before(root: Path) -> None:
    with serving(root) as served:
        onnx_files.save(answering(9), root / "m.onnx")

        served.until(lambda: "keep one" in served.reason())
        assert served.ask() == (1, 1)
        (root / "m.onnx").unlink()
        served.until(lambda: served.reason() == "")
        assert served.ask() == (1, 1)


def test_an_unexpected_error_in_one_model_leaves_the_others_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loader.load

    def load_or_fail(self: Loader, file: ModelFile) -> Model:
        if file.name == "cursed":
            raise RuntimeError("a secret of ours")
        return load(self, file)

    monkeypatch.setattr(Loader, "load", load_or_fail)
    with serving(root) as served:
        put(root, "cursed", 1, 1)
        put(root, "next", 1, 6)

        served.until_answer((1, 6), "next")
        assert "unexpected error" in served.refusal("cursed")
        assert "secret" not in served.refusal("cursed")


def test_the_watch_survives_an_error_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = lifecycle_module.scan
    failures = iter([RuntimeError("once")])

    def scan_or_fail(path: Path) -> Any:
        for failure in failures:
            raise failure
        return scan(path)

    with serving(root) as served:
        monkeypatch.setattr(lifecycle_module, "scan", scan_or_fail)
        put(root, "m", 2, 2)

        served.until(lambda: served.ask() == (2, 2), within_s=5)


def test_without_file_events_the_files_are_polled(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", none_left)
    monkeypatch.setattr(watching, "_FALLBACK_S", 0.1)
    with serving(root) as served:
        for number in (2, 3):
            put(root, "m", number, number)
            served.until_answer((number, number))
        assert caplog.text.count("no file events") == 1
        assert "inotify instance limit reached" in caplog.text


# By name.


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
        with pytest.raises(ModelNotFoundError, match="'nothing' not found; available: m"):
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


# Versions and labels.


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        ("all", [1, 2, 3], [1, 2, 3, 5]),
        ("latest", [3], [5]),
        ("latest:2", [2, 3], [3, 5]),
        ("1,5", [1], [1, 5]),
    ],
)
def test_a_policy_holds_while_versions_come(
    root: Path, policy: str, first: list[int], second: list[int]
) -> None:
    for number in (2, 3):
        put(root, "m", number, number)
    with serving(root, versions=VersionPolicy.parse(policy)) as served:
        catalog = served.server.catalog
        assert catalog.versions("m") == first
        with called_all_the_time(served):
            put(root, "m", 5, 5)
            served.until(lambda: catalog.versions("m") == second)
        put(root, "m", 4, 4)
        time.sleep(A_WHILE_S)
        assert catalog.versions("m") == {
            "all": [1, 2, 3, 4, 5],
            "latest:2": [4, 5],
        }.get(policy, second)


def test_the_latest_that_fails_leaves_its_elder_serving(root: Path) -> None:
    put(root, "m", 2, BROKEN)
    with serving(root, versions=VersionPolicy.parse("latest")) as served:
        assert served.ask() == (1, 1)
        with called_all_the_time(served) as answers:
            put(root, "m", 3, BROKEN)
            served.until(lambda: served.reason("m", 3) != "")
            put(root, "m", 3, 3)
            served.until_answer((3, 3))
        assert answers == {(1, 1), (3, 3)}
        assert served.server.catalog.versions("m") == [3]
        assert served.outcome(version="1") is Code.NOT_FOUND


def test_a_label_is_a_version_in_every_request(root: Path) -> None:
    put(root, "m", 2, 2)
    label(root, "m", {"stable": 1, "canary": 2})
    with serving(root) as served:
        stub = served.stub
        assert served.ask(version="stable") == (1, 1)
        assert served.ask(version="canary") == (2, 2)
        ready = pb.ModelReadyRequest(name="m", version="stable")
        assert stub.call("ModelReady", ready, pb.ModelReadyResponse).ready
        asked = pb.ModelMetadataRequest(name="m", version="stable")
        assert stub.call("ModelMetadata", asked, pb.ModelMetadataResponse).name == "m"
        config = stub.call(
            "ModelConfig", pb.ModelConfigRequest(name="m", version="stable"), pb.ModelConfigResponse
        )
        assert config.config.name == "m"
        statistics = stub.call(
            "ModelStatistics",
            pb.ModelStatisticsRequest(name="m", version="canary"),
            pb.ModelStatisticsResponse,
        )
        assert [model.version for model in statistics.model_stats] == ["2"]


def test_an_unknown_label_is_told_which_there_are(root: Path) -> None:
    label(root, "m", {"stable": 1, "canary": 1})
    with serving(root) as served:
        refusal = served.stub.refusal("ModelInfer", question("m", "stabel"))

        assert refusal.code is Code.INVALID_ARGUMENT
        assert refusal.message.endswith("got 'stabel'; labels of 'm': canary, stable")
        assert list(refusal.violations) == ["model_version"]


def test_labels_move_when_the_file_is_replaced_and_no_call_fails(
    root: Path, how: dict[str, Any]
) -> None:
    put(root, "m", 2, 2)
    label(root, "m", {"stable": 1})
    with serving(root, **how) as served:
        with called_all_the_time(served, ("stable",)) as answers:
            for version in (2, 1, 2):
                label(root, "m", {"stable": version})
                served.until_answer((version, version), version="stable")

        assert answers == {(1, 1), (2, 2)}
        label(root, "m", {})
        served.until(lambda: served.outcome(version="stable") is Code.INVALID_ARGUMENT)


def test_a_label_waits_for_a_version_that_is_to_come(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(root, "m", {"stable": 1})
    with serving(root) as served, called_all_the_time(served, ("stable",)) as answers:
        put(root, "m", 2, BROKEN)
        label(root, "m", {"stable": 2})
        served.until(lambda: "'stable' stays at version 1, since 2 does not" in caplog.text)

        put(root, "m", 2, 2)
        served.until_answer((2, 2), version="stable")

    assert answers == {(1, 1), (2, 2)}
    assert caplog.text.count("stays at version 1") == 1


def test_a_malformed_file_leaves_the_labels_as_they_are(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(root, "m", {"stable": 1})
    with serving(root) as served:
        label(root, "m", '{"stable": ')
        served.until(lambda: "labels.json is not JSON" in caplog.text)
        put(root, "m", 2, 2)
        served.until_answer((2, 2))

        assert served.ask(version="stable") == (1, 1)
        assert caplog.text.count("labels.json is not JSON") == 1
        label(root, "m", {"stable": 2})
        served.until_answer((2, 2), version="stable")


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        (2, Code.FAILED_PRECONDITION, "version 2 failed"),
        (7, Code.NOT_FOUND, "no version 'stable'; available: 1, 2"),
    ],
)
def test_a_label_that_never_stood_for_a_version_that_answers_says_so(
    root: Path, wanted: int, code: grpc.StatusCode, says: str
) -> None:
    put(root, "m", 2, BROKEN)
    label(root, "m", {"stable": wanted})
    with serving(root) as served:
        assert served.outcome(version="stable") is code
        assert says in served.refusal(version="stable")


# The end.


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
from forwardpass.server.loading import Loader

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
    onnx_files.save(hostile_files.never_ends(), root / name / "1" / "model.onnx")
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
