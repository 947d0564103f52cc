import os
import subprocess
import sys

import pytest

from forwardpass.models import (
    ExportProofError,
    ModelExistsError,
    Network,
    NetworkError,
    Published,
    load,
    publish,
)


def network(seed=0):
    return Network.chain([3, 2], seed=seed, name="small")


def test_versions_count_up_from_one(tmp_path):
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


def test_the_next_version_follows_the_highest_number(tmp_path):
    for name in ("3", "10", "notes", ".draft.0", "²"):
        (tmp_path / "small" / name).mkdir(parents=True)
    assert publish(network(), tmp_path).version == 11


def test_a_version_is_only_replaced_when_asked(tmp_path):
    assert publish(network(0), tmp_path, version=7).version == 7
    with pytest.raises(ModelExistsError, match=r"7 exists already; say overwrite=True .* no vers"):
        publish(network(1), tmp_path, version=7)
    assert load(tmp_path / "small" / "7" / "model.onnx") == network(0)
    publish(network(1), tmp_path, version=7, overwrite=True)
    assert load(tmp_path / "small" / "7" / "model.onnx") == network(1)
    assert os.listdir(tmp_path / "small") == ["7"]
    publish(network(2), tmp_path, version=8, overwrite=True)
    assert sorted(os.listdir(tmp_path / "small")) == ["7", "8"]


def test_a_version_that_comes_meanwhile_is_not_replaced(tmp_path, monkeypatch):
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
def test_a_version_is_a_whole_number_from_one_on(tmp_path, version):
    with pytest.raises(NetworkError, match="expected version to be a whole number from 1 on"):
        publish(network(), tmp_path, version=version)
    assert os.listdir(tmp_path) == []


def test_a_failing_proof_leaves_nothing_behind(tmp_path):
    hopeless = Network.chain([1, 1, 1], parameters=[([[1]], [3e38]), ([[9]], [0])])
    with pytest.raises(ExportProofError):
        publish(hopeless, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_failing_disk_leaves_no_version_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(network(), tmp_path)
    assert os.listdir(tmp_path / "small") == []


def test_processes_that_publish_at_once_get_versions_of_their_own(tmp_path):
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
