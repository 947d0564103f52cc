"""When the files are looked at again."""

import time
from pathlib import Path
from threading import Event, Timer

import pytest

from forwardpass.server.repository.disk import scan
from forwardpass.server.repository.watching import RESCAN_S, Watcher


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").touch()
    return tmp_path


def waited(watcher: Watcher, root: Path) -> float:
    started = time.monotonic()
    watcher.wait(scan(root).folders)
    return time.monotonic() - started


@pytest.mark.parametrize("place", ["new.onnx", "m/labels.json", "m/1/model.onnx", "m/2/model.onnx"])
def test_a_change_anywhere_ends_the_wait(
    root: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Watcher(Event()) as watcher:
        # The first one returns at once: there may be changes from before the watch began.
        assert waited(watcher, root) < RESCAN_S / 2
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(b"new")

        assert waited(watcher, root) < RESCAN_S / 2
    assert caplog.text == ""


def test_a_change_before_the_wait_is_not_missed(root: Path) -> None:
    with Watcher(Event()) as watcher:
        waited(watcher, root)
        (root / "m" / "1" / "model.onnx").write_bytes(b"new")
        time.sleep(0.3)

        assert waited(watcher, root) < RESCAN_S / 2


def test_folders_that_are_new_are_watched_and_looked_into_once_more(root: Path) -> None:
    with Watcher(Event()) as watcher:
        waited(watcher, root)
        (root / "new" / "1").mkdir(parents=True)
        assert waited(watcher, root) < RESCAN_S / 2

        (root / "new" / "1" / "model.onnx").touch()
        assert waited(watcher, root) < RESCAN_S / 2


def test_a_folder_that_is_made_anew_is_watched_anew(root: Path) -> None:
    with Watcher(Event()) as watcher:
        waited(watcher, root)
        (root / "m" / "1" / "model.onnx").unlink()
        (root / "m" / "1").rmdir()
        (root / "m" / "1").mkdir()
        assert waited(watcher, root) < RESCAN_S / 2
        time.sleep(0.2)

        (root / "m" / "1" / "model.onnx").touch()
        assert waited(watcher, root) < RESCAN_S / 2


@pytest.mark.parametrize("poll_s", [None, 600.0])
def test_a_stop_ends_the_wait(root: Path, poll_s: float | None) -> None:
    stop = Event()
    with Watcher(stop, poll_s) as watcher:
        if poll_s is None:
            waited(watcher, root)
        timer = Timer(0.1, stop.set)
        timer.start()

        assert waited(watcher, root) < RESCAN_S / 2
        timer.join()


def test_polling_waits_that_long(root: Path) -> None:
    with Watcher(Event(), poll_s=0.2) as watcher:
        (root / "new.onnx").touch()

        assert waited(watcher, root) >= 0.2


def test_a_folder_that_goes_away_is_no_error(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = scan(root).folders
    (root / "m" / "1" / "model.onnx").unlink()
    (root / "m" / "1").rmdir()
    with Watcher(Event()) as watcher:
        watcher.wait(folders)

        assert waited(watcher, root) < RESCAN_S / 2
        (root / "new.onnx").touch()
        assert waited(watcher, root) < RESCAN_S / 2
    assert caplog.text == ""
