"""Names are never paths, and no link or location leads out of what is served."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from support import onnx_files
from support.rpc import REPLIES, Stub
from support.untrue_files import external
from support.versions import answering, put
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.repository.catalog import IndexEntry, State

ROW = {"x": np.ones((1, 2), np.float32)}
NAMES = [
    "../secret",
    "..",
    ".",
    "m/1",
    "m/1/model.onnx",
    "./m",
    "m/../m",
    "m/",
    "/m",
    "..\\m",
    "m\0",
]
VERSIONS = [
    "../1",
    "1/../../secret/1",
    "/1",
    "./1",
    "1/",
    "-1",
    "+1",
    " 1",
    "1\0",
    "0x1",
    "1e0",
    "一",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is served, `models`, beside a model `secret` that is not."""
    folder = tmp_path_factory.mktemp("paths")
    put(folder / "models", "m", 1, 1)
    put(folder, "secret", 1, 7)
    return folder


@pytest.fixture(scope="module")
def stub(folder: Path) -> Iterator[Stub]:
    config = Config(models=folder / "models", port=0, model_control=True)
    with Server(config) as server, Stub(server.port) as stub:
        yield stub


def about(rpc: str, name: str, version: str = "") -> Message:
    if rpc == "ModelInfer":
        return infer_request(name, ROW, model_version=version)
    control = rpc.startswith("Repository")
    fields = {"model_name": name} if control else {"name": name, "version": version}
    request: Message = getattr(pb, f"{rpc}Request")(**fields)
    return request


RPCS = ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics"]
CONTROL = ["RepositoryModelLoad", "RepositoryModelUnload"]
REFUSED = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("rpc", RPCS + CONTROL)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(stub: Stub, folder: Path, rpc: str, name: str) -> None:
    refusal = stub.refusal(rpc, about(rpc, name))

    assert refusal.code in REFUSED
    assert str(folder) not in refusal.message


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_such_a_name_is_ready(stub: Stub, name: str) -> None:
    reply = stub.call("ModelReady", pb.ModelReadyRequest(name=name), REPLIES["ModelReady"])

    assert reply == pb.ModelReadyResponse(ready=False)


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_no_path(stub: Stub, folder: Path, rpc: str, version: str) -> None:
    refusal = stub.refusal(rpc, about(rpc, "m", version))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert str(folder) not in refusal.message


def only_entry(models: Path) -> IndexEntry:
    with Server(Config(models=models, port=0)) as server:
        (entry,) = server.catalog.index()
    return entry


@pytest.mark.parametrize("place", ["m", "m/1", "m/1/model.onnx"])
def test_a_link_out_of_the_repository_is_not_served(tmp_path: Path, place: str) -> None:
    put(tmp_path / "elsewhere", "m", 1, 7)
    link = tmp_path / "models" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere" / place)

    entry = only_entry(tmp_path / "models")

    assert (entry.name, entry.state) == ("m", State.UNAVAILABLE)
    assert "leads out of it" in entry.reason
    assert str(tmp_path) not in entry.reason


def test_a_file_that_becomes_a_link_out_of_it_leaves_what_answered(tmp_path: Path) -> None:
    models = tmp_path / "models"
    file = put(models, "m", 1, 1)
    onnx_files.save(answering(7), tmp_path / "elsewhere.onnx")
    with Server(Config(models=models, port=0, poll_s=0.05, model_control=True)) as server:
        with Stub(server.port) as stub:
            link = file.with_name(".link")
            link.symlink_to(tmp_path / "elsewhere.onnx")
            link.replace(file)
            refusal = stub.refusal("RepositoryModelLoad", about("RepositoryModelLoad", "m"))
            reply = stub.infer(infer_request("m", ROW))

    assert "leads out of it" in refusal.message
    assert np.frombuffer(reply.raw_output_contents[0], np.float32).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "location", ["../../../secret.bin", "{root}/secret.bin", "data/secret.bin"]
)
def test_data_outside_of_the_models_folder_is_not_read(tmp_path: Path, location: str) -> None:
    models = tmp_path / "models"
    (tmp_path / "secret.bin").write_bytes(b"\0" * 24)
    model = external(location.format(root=tmp_path))
    folder = onnx_files.save(model, models / "m" / "1" / "model.onnx").parent
    (folder / "data").symlink_to(tmp_path)

    entry = only_entry(models)

    assert entry.state is State.UNAVAILABLE
    assert "external data" in entry.reason
