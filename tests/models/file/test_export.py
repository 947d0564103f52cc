import json
import os
import pickle
import stat
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from forwardpass.models import (
    ExportProofError,
    Input,
    ModelExistsError,
    ModelsError,
    Network,
    export,
    load,
    to_onnx,
)
from forwardpass.models.file.export import write


def spoil(monkeypatch, name, delta):
    """Have the exporter write one wrong number into the graph."""

    def to_wrong_onnx(network):
        model = to_onnx(network)
        tensor = next(each for each in model.graph.initializer if each.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[-1] += np.float32(delta)
        tensor.raw_data = values.tobytes()
        return model

    monkeypatch.setitem(export.__globals__, "to_onnx", to_wrong_onnx)


@pytest.fixture
def network():
    return Network.chain([3, 5, 2], output_activation="sigmoid", labels=["ill", "well"])


def test_the_file_is_an_equal_network_and_the_proof_comes_back(
    network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "folder" / "model.onnx"
    proof = export(network, path)
    assert load(path) == network
    assert list(proof.outputs) == ["y"]
    assert os.listdir(path.parent) == ["model.onnx"]


def test_the_range_of_each_feature_stands_in_the_file_and_changes_no_answer(
    network: Network, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(3, 9, (50, 3)).astype(np.float32)
    ranged = replace(network, inputs=(Input(3, low=x.min(axis=0), high=x.max(axis=0)),))

    export(ranged, tmp_path / "net.onnx")

    read = load(tmp_path / "net.onnx")
    assert read == ranged
    assert read != network
    assert pickle.loads(pickle.dumps(ranged)) == ranged
    assert (read.input.low == x.min(axis=0)).all()
    assert (read.input.high == x.max(axis=0)).all()
    assert all((answer == network(x)[name]).all() for name, answer in read(x).items())


def test_equal_networks_give_equal_bytes(network: Network, tmp_path: Path) -> None:
    export(network, tmp_path / "a.onnx")
    export(load(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_thresholds_are_in_the_file_and_read_back(tmp_path: Path) -> None:
    network = Network.chain(
        [3, 2], output_activation="softmax", labels=["ill", "well"], thresholds=[0.1, 0.9]
    )
    export(network, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == network
    texts = {each.key: each.value for each in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(texts["forwardpass.outputs"])["y"]["thresholds"] == [0.1, 0.9]


def test_anyone_whom_the_umask_allows_may_read_it(network: Network, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        export(network, tmp_path / "m.onnx")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o644


def test_a_file_is_only_replaced_when_asked(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(ModelExistsError, match=r"m\.onnx exists already; say overwrite=True"):
        export(network, path)
    assert path.read_bytes() == b"mine"
    export(network, path, overwrite=True)
    assert load(path) == network
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_wrong_number_in_the_graph_leaves_nothing_behind(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "W1", 0.1)
    with pytest.raises(ExportProofError, match=r"output 'y'.*nothing was written"):
        export(network, tmp_path / "folder" / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_one_wrong_bit_in_a_wide_network_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "W2", 2.0**-20)
    with pytest.raises(ExportProofError, match="the file reads back as another network"):
        export(Network.chain([512, 512, 512]), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_a_failing_proof_leaves_the_old_file_as_it_was(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(network, tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    spoil(monkeypatch, "b1", 0.1)
    with pytest.raises(ExportProofError):
        export(network, tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_a_disk_that_fills_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "m.onnx", b"content", overwrite=False)
    assert os.listdir(tmp_path) == []


def race(count, work):
    """Run work(index) in threads that start together; return the results and errors."""
    barrier, results = threading.Barrier(count), []

    def run(index):
        barrier.wait()
        try:
            results.append(work(index))
        except ModelsError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("links", [True, False])
def test_of_several_that_write_one_file_at_once_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links
) -> None:
    if not links:

        def refuse(self, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    path = tmp_path / "m.onnx"
    contents = [bytes([65 + index]) * 100_000 for index in range(8)]
    results = race(8, lambda index: write(path, contents[index], overwrite=False))
    assert results.count(None) == 1
    assert sum(isinstance(each, ModelExistsError) for each in results) == 7
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_reader_never_sees_half_a_file_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    contents = [bytes([65 + index]) * 200_000 for index in range(2)]
    write(path, contents[0], overwrite=False)
    done = threading.Event()

    def replace():
        for index in range(20):
            write(path, contents[index % 2], overwrite=True)
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    thread.join()
