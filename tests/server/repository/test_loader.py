"""What a file goes through before it is a model."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import hostile_files, onnx_files
from support.versions import answering

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import Limits, check_file, written_by_anybody
from forwardpass.server.repository import loader as loading
from forwardpass.server.repository.disk import ModelFile, find_models
from forwardpass.server.repository.loader import Loader
from forwardpass.server.repository.trial import Trial


def load(
    path: Path, *, general: bool = False, deadline_s: float = 10.0, size: int = 2**29
) -> Model:
    (file,) = find_models(path)
    limits = Limits(max_file_bytes=size, general=general)
    with Trial(cpu_s=deadline_s) as trial:
        return Loader(path, limits, trial, QueueLimits()).load(file)


def reason(path: Path, **settings: bool | float) -> str:
    with pytest.raises(ModelFailedError) as caught:
        load(path, **settings)  # type: ignore[arg-type]
    return caught.value.reason


def number(model: Model) -> float:
    (y,) = model.session.run({"x": np.zeros((1, 2), np.float32)}, ["y"])
    return float(y[0, 0])


def test_a_plain_network_is_loaded_without_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_files.save(answering(3), tmp_path / "m.onnx")
    monkeypatch.setattr(Trial, "run", None)

    model = load(tmp_path)

    assert (model.name, model.version, number(model)) == ("m", 1, 3)


def test_what_may_never_end_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    onnx_files.save(onnx_files.slow(), tmp_path / "m.onnx")

    assert "--general-models" in reason(tmp_path)
    assert load(tmp_path, general=True).name == "m"


@pytest.mark.parametrize("place", ["repository", "m", "1", "model.onnx"])
def test_what_may_never_end_is_refused_where_everybody_may_write_whatever_is_allowed(
    tmp_path: Path, place: str
) -> None:
    root = tmp_path / "repository"
    file = onnx_files.save(onnx_files.slow(), root / "m" / "1" / "model.onnx")
    assert load(root, general=True).name == "m"
    entry = next(entry for entry in (file, *file.parents) if entry.name == place)

    entry.chmod(entry.stat().st_mode | 0o002)

    why = reason(root, general=True)
    assert f"--general-models does not apply where everybody may write to {place!r}" in why


def test_a_plain_network_is_loaded_wherever_it_lies(tmp_path: Path) -> None:
    onnx_files.save(answering(3), tmp_path / "m.onnx").chmod(0o666)

    assert number(load(tmp_path)) == 3
    assert number(load(tmp_path, general=True)) == 3


def test_in_a_folder_like_tmp_what_is_ones_own_is_trusted_and_other_users_files_are_not(
    tmp_path: Path,
) -> None:
    root = tmp_path / "shared"
    file = onnx_files.save(onnx_files.slow(), root / "m.onnx")
    root.chmod(0o1777)
    assert load(root, general=True).name == "m"
    assert load(file, general=True).name == "m"

    # Nobody but root may give files away: where the tests run as another, ask the rule itself.
    if os.geteuid() == 0:
        os.chown(file, 12345, 12345)
        assert "everybody may write" in reason(root, general=True)
    else:
        assert not written_by_anybody(file, root)


def test_what_takes_too_long_does_so_in_another_process(tmp_path: Path) -> None:
    onnx_files.save(hostile_files.loops_long(), tmp_path / "m.onnx")

    assert "took longer than 1 s" in reason(tmp_path, general=True, deadline_s=1.0)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(bytes(1025))

    assert "1024" in reason(tmp_path, size=1024)


def test_a_link_out_of_what_is_served_is_refused(tmp_path: Path) -> None:
    onnx_files.save(answering(3), tmp_path / "elsewhere" / "m.onnx")
    served = tmp_path / "served"
    served.mkdir()
    (served / "m.onnx").symlink_to(tmp_path / "elsewhere" / "m.onnx")

    assert "leads out of it" in reason(served)
    # Named by the operator, who may have any file served.
    assert number(load(served / "m.onnx")) == 3
    # Nor does it matter by which name the folder itself is reached.
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert number(load(tmp_path / "link")) == 3


def test_a_file_at_fault_is_not_looked_at(tmp_path: Path) -> None:
    file = ModelFile("m", 2, tmp_path / "m.onnx", fault="two of them")

    with Trial() as trial, pytest.raises(ModelFailedError, match="'m' version 2 failed: two of"):
        Loader(tmp_path, Limits(), trial, QueueLimits()).load(file)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_file_that_changes_meanwhile_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    onnx_files.save(answering(3), tmp_path / "m.onnx")

    def check_and_change(path: Path, *, root: Path, limits: Limits) -> object:
        checked = check_file(path, root=root, limits=limits)
        change(path)
        return checked

    monkeypatch.setattr(loading, "check_file", check_and_change)

    assert "changed while it was loaded" in reason(tmp_path)
