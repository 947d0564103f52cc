"""What goes wrong on disk while the server runs: what answers goes on answering."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support import onnx_files
from support.living import A_WHILE_S, called_all_the_time, serving
from support.versions import BROKEN, answering, put, remove

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.engine.model import Model
from forwardpass.server.repository import lifecycle as lifecycle_module
from forwardpass.server.repository import watching
from forwardpass.server.repository.catalog import State
from forwardpass.server.repository.disk import ModelFile, scan
from forwardpass.server.repository.loader import Loader

Code = grpc.StatusCode
Health = health_pb2.HealthCheckResponse


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
        assert entry.reason.startswith("changed on disk, and the new file fails: ")

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
