import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forwardpass.models import (
    ExportProofError,
    ModelExistsError,
    Network,
    NetworkError,
    Published,
    export,
    from_onnx,
    from_state,
    load,
    publish,
)


def network(seed=0):
    return Network.chain([3, 2], seed=seed, name="small")


class Somewhere:
    """A path of another kind than pathlib's."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __fspath__(self) -> str:
        return self.path


@pytest.mark.parametrize("of", [str, Path, Somewhere])
def test_a_path_may_be_a_text_or_any_other_path(tmp_path: Path, of) -> None:
    published = publish(network(), of(tmp_path / "r"))
    assert published.path == tmp_path / "r" / "small" / "1" / "model.onnx"
    export(network(), of(tmp_path / "m.onnx"))
    assert load(of(tmp_path / "m.onnx")) == network()
    assert from_onnx(of(tmp_path / "m.onnx")).layers == network().layers
    np.savez(tmp_path / "w.npz", **{"0.weight": np.ones((2, 3))})  # type: ignore[arg-type]
    assert from_state(of(tmp_path / "w.npz"), ["identity"]).input.size == 3


@pytest.mark.parametrize("function", [publish, export])
@pytest.mark.parametrize("first", ["models", Path("models"), {"W": 1}])
def test_a_path_in_place_of_the_network_is_reported(tmp_path: Path, function, first) -> None:
    with pytest.raises(TypeError, match=r"expected a Network first and the path second, got "):
        function(first, tmp_path / "to")
    assert not list(tmp_path.iterdir())


def test_versions_count_up_from_one(tmp_path: Path) -> None:
    first = publish(network(0), tmp_path / "repository")
    second = publish(network(1), tmp_path / "repository")
    assert isinstance(first, Published)
    assert (first.version, second.version) == (1, 2)
    assert second.path == tmp_path / "repository" / "small" / "2" / "model.onnx"
    assert load(first.path) == network(0)
    assert load(second.path) == network(1)
    assert list(first.proof.outputs) == ["y"]
    assert sorted(os.listdir(tmp_path / "repository" / "small")) == ["1", "2"]
    assert os.listdir(tmp_path / "repository" / "small" / "1") == ["model.onnx"]


def test_the_next_version_follows_the_highest_number(tmp_path: Path) -> None:
    for name in ("3", "10", "notes", ".draft.0", "²"):
        (tmp_path / "small" / name).mkdir(parents=True)
    assert publish(network(), tmp_path).version == 11


def test_a_version_is_only_replaced_when_asked(tmp_path: Path) -> None:
    assert publish(network(0), tmp_path, version=7).version == 7
    with pytest.raises(ModelExistsError, match=r"7 exists already; say overwrite=True .* no vers"):
        publish(network(1), tmp_path, version=7)
    assert load(tmp_path / "small" / "7" / "model.onnx") == network(0)
    publish(network(1), tmp_path, version=7, overwrite=True)
    assert load(tmp_path / "small" / "7" / "model.onnx") == network(1)
    assert os.listdir(tmp_path / "small") == ["7"]
    publish(network(2), tmp_path, version=8, overwrite=True)
    assert sorted(os.listdir(tmp_path / "small")) == ["7", "8"]


def test_what_to_overwrite_has_to_be_said(tmp_path: Path) -> None:
    publish(network(0), tmp_path)
    with pytest.raises(NetworkError, match=r"expected the version to overwrite, got none; .*=1"):
        publish(network(1), tmp_path, overwrite=True)
    assert os.listdir(tmp_path / "small") == ["1"]


def test_a_version_that_comes_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove_slowly(each):
        (tmp_path / "small" / "1").mkdir(parents=True)
        (tmp_path / "small" / "1" / "model.onnx").write_bytes(b"theirs")
        return proven(each)

    proven = publish.__globals__["proven"]
    monkeypatch.setitem(publish.__globals__, "proven", prove_slowly)
    with pytest.raises(ModelExistsError):
        publish(network(), tmp_path, version=1)
    assert (tmp_path / "small" / "1" / "model.onnx").read_bytes() == b"theirs"
    assert os.listdir(tmp_path / "small") == ["1"]


@pytest.mark.parametrize("version", [0, -1, 1.5, "2", True])
def test_a_version_is_a_whole_number_from_one_on(tmp_path: Path, version) -> None:
    with pytest.raises(NetworkError, match="expected version to be a whole number from 1 on"):
        publish(network(), tmp_path, version=version)
    assert os.listdir(tmp_path) == []


def test_a_failing_proof_leaves_nothing_behind(tmp_path: Path) -> None:
    hopeless = Network.chain([1, 1, 1], parameters=[([[1]], [3e38]), ([[9]], [0])])
    with pytest.raises(ExportProofError):
        publish(hopeless, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_failing_disk_leaves_no_version_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(network(), tmp_path)
    assert os.listdir(tmp_path / "small") == []


def test_processes_that_publish_at_once_get_versions_of_their_own(tmp_path: Path) -> None:
    program = (
        "import sys; from forwardpass.models import Network, publish\n"
        "for seed in range(10):\n"
        "    network = Network.chain([3, 2], seed=seed, name='small')\n"
        "    print(publish(network, sys.argv[1]).version)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    versions = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(versions) == list(range(1, 31))
    assert sorted(map(int, os.listdir(tmp_path / "small"))) == list(range(1, 31))
    for version in versions:
        load(tmp_path / "small" / str(version) / "model.onnx")


def test_a_store_gets_versions_as_a_folder_does(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    first = publish(network(), store)
    assert (first.version, first.url) == (1, f"{store}/small/1/model.onnx")
    assert load(tmp_path / "store" / first.path) == network()
    assert publish(network(), store).version == 2
    with pytest.raises(ModelExistsError, match="small/2 exists"):
        publish(network(), store, version=2)
    publish(network(seed=1), store, version=2, overwrite=True)
    assert load(tmp_path / "store" / "small" / "2" / "model.onnx") == network(seed=1)
