"""Models in memory: found by name and version, whatever became of the others."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support import onnx_files
from support.rpc import Stub
from support.served import GOOD, X, Y, assert_answered

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import SAMPLES, Samples
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.errors import (
    InvalidRequestError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    VersionNotFoundError,
)
from forwardpass.server.guard import Limits
from forwardpass.server.health import Health
from forwardpass.server.repository.catalog import Catalog, IndexEntry, State
from forwardpass.server.repository.disk import ModelFile
from forwardpass.server.repository.lifecycle import Lifecycle
from forwardpass.server.repository.loader import Loader
from forwardpass.server.repository.trial import Trial


def version(root: Path, number: int, *, good: bool = True, name: str = "linear") -> None:
    path = onnx_files.save(onnx_files.linear(), root / name / str(number) / "model.onnx")
    if not good:
        path.write_bytes(b"no model")


def load(root: Path, catalog: Catalog) -> None:
    with Trial() as trial:
        loader = Loader(root, Limits(), trial, QueueLimits())
        Lifecycle(root, catalog, Health(), loader.load).rescan(settle_s=0)


def loaded(root: Path) -> Catalog:
    catalog = Catalog()
    load(root, catalog)
    return catalog


def failed(catalog: Catalog) -> list[tuple[str, int]]:
    return [(entry.name, entry.version) for entry in catalog.index() if entry.reason]


def test_finds_a_version_and_the_latest_by_default(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        version(tmp_path, number)
    catalog = loaded(tmp_path)

    assert {asked: catalog.find("linear", asked).version for asked in ("", "1", "02", "10")} == {
        "": 10,
        "1": 1,
        "02": 2,
        "10": 10,
    }
    assert list(catalog) == ["linear"]
    assert catalog.versions("linear") == [1, 2, 10]
    assert failed(catalog) == []


def test_a_failed_version_leaves_the_others_answering(tmp_path: Path) -> None:
    version(tmp_path, 1)
    version(tmp_path, 2, good=False)
    version(tmp_path, 1, good=False, name="broken")
    version(tmp_path, 1, name="zebra")
    catalog = loaded(tmp_path)

    assert catalog.find("linear").version == 1
    assert catalog.find("zebra").version == 1
    assert catalog.versions("linear") == [1]
    assert catalog.versions("broken") == []
    assert failed(catalog) == [("broken", 1), ("linear", 2)]
    for name, asked in {"linear": "2", "broken": ""}.items():
        with pytest.raises(ModelFailedError, match="do not parse"):
            catalog.find(name, asked)


def test_one_strange_file_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    samples = {SAMPLES: Samples({"x": X}, {"y": Y}, {"y": 1.0}).dump()}
    text = onnx_files.identity("BYTES", [2, 3], samples)
    onnx_files.save(text, tmp_path / "text" / "1" / "model.onnx")
    version(tmp_path, 1)

    catalog = loaded(tmp_path)

    assert catalog.find("linear").version == 1
    assert failed(catalog) == [("text", 1)]


def test_a_failure_does_not_grow_with_every_call(tmp_path: Path) -> None:
    version(tmp_path, 1, good=False)
    catalog = loaded(tmp_path)

    depths = []
    for _ in range(3):
        with pytest.raises(ModelFailedError) as caught:
            catalog.find("linear")
        depths.append(len(caught.traceback))

    assert len(set(depths)) == 1


@pytest.mark.parametrize(
    ("name", "asked", "error"),
    [
        ("nothing", "", ModelNotFoundError),
        ("nothing", "abc", ModelNotFoundError),
        ("", "", ModelNotFoundError),
        ("linear", "2", VersionNotFoundError),
        ("linear", "0", VersionNotFoundError),
        ("linear", "abc", InvalidRequestError),
        ("linear", "-1", InvalidRequestError),
        ("linear", "1\n", InvalidRequestError),
    ],
)
def test_what_is_not_there_is_said(
    tmp_path: Path, name: str, asked: str, error: type[Exception]
) -> None:
    version(tmp_path, 1)

    with pytest.raises(error):
        loaded(tmp_path).find(name, asked)


def test_versions_of_an_unknown_name_are_not_found() -> None:
    with pytest.raises(ModelNotFoundError, match="none"):
        Catalog().versions("nothing")


class Gate:
    """Holds back the loading of version 2 until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_through(self, file: ModelFile) -> None:
        if file.version == 2:
            self.reached.set()
            assert self.opened.wait(10)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()

    ungated = Loader.load

    def load(self: Loader, file: ModelFile) -> Model:
        gate.pass_through(file)
        return ungated(self, file)

    monkeypatch.setattr(Loader, "load", load)
    return gate


def test_what_is_still_loading_says_so_while_the_rest_answers(tmp_path: Path, gate: Gate) -> None:
    for name, number in [("linear", 1), ("linear", 2), ("other", 2)]:
        version(tmp_path, number, name=name)
    catalog = Catalog()
    loader = threading.Thread(target=load, args=[tmp_path, catalog])
    loader.start()
    assert gate.reached.wait(10)

    try:
        assert catalog.find("linear").version == 1
        assert catalog.index() == [
            IndexEntry("linear", 1, State.READY, ""),
            IndexEntry("linear", 2, State.LOADING, ""),
            IndexEntry("other", 2, State.LOADING, ""),
        ]
        for name, asked in {"linear": "2", "other": ""}.items():
            with pytest.raises(ModelLoadingError, match=f"'{name}'"):
                catalog.find(name, asked)
    finally:
        gate.opened.set()
        loader.join()

    assert catalog.find("linear").version == 2
    assert catalog.find("other").version == 2


@pytest.fixture
def loading(tmp_path: Path, gate: Gate) -> Iterator[Stub]:
    """A server that has loaded `linear` version 1 and is held at `other` version 2."""
    version(tmp_path, 1)
    version(tmp_path, 2, name="other")
    server = Server(Config(models=tmp_path, port=0))
    starter = threading.Thread(target=server.start)
    starter.start()
    assert gate.reached.wait(10)
    try:
        with Stub(server.port) as stub:
            yield stub
    finally:
        gate.opened.set()
        starter.join()
        server.stop()


def test_a_server_that_loads_is_live_and_not_ready(loading: Stub) -> None:
    assert loading.call("ServerLive", b"", pb.ServerLiveResponse).live
    assert not loading.call("ServerReady", b"", pb.ServerReadyResponse).ready
    asked = pb.ModelReadyRequest(name="other")
    assert not loading.call("ModelReady", asked, pb.ModelReadyResponse).ready


def test_a_server_that_loads_answers_for_what_is_loaded(loading: Stub) -> None:
    assert_answered(loading, GOOD["linear"])


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata"])
def test_a_model_that_loads_is_unavailable_and_not_unknown(loading: Stub, method: str) -> None:
    request = pb.ModelInferRequest(model_name="other")
    if method == "ModelMetadata":
        refusal = loading.refusal(method, pb.ModelMetadataRequest(name="other"))
    else:
        refusal = loading.refusal(method, request)

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert "'other'" in refusal.message
