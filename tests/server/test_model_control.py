"""The repository over the wire: who sees it, who may change it, in Triton's and KServe's form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import onnx_files
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config

pytestmark = pytest.mark.usefixtures("transport")

Code = grpc.StatusCode

LOAD, UNLOAD = "RepositoryModelLoad", "RepositoryModelUnload"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear" / "1" / "model.onnx")
    onnx_files.save(onnx_files.pair(), tmp_path / "pair" / "1" / "model.onnx")
    (tmp_path / "garbage" / "1").mkdir(parents=True)
    (tmp_path / "garbage" / "1" / "model.onnx").write_bytes(b"this is no model")
    return tmp_path


@pytest.fixture
def stub(models: Path) -> Iterator[Stub]:
    """A server that may be controlled, and looks at the disk only when told to."""
    config = Config(models=models, port=0, model_control=True, watch=False)
    with Server(config) as server, Stub(server.port) as stub:
        yield stub


def index(stub: Stub, **fields: Any) -> dict[str, tuple[str, str]]:
    request = pb.RepositoryIndexRequest(**fields)
    reply = stub.call("RepositoryIndex", request, pb.RepositoryIndexResponse)
    return {f"{found.name}/{found.version}": (found.state, found.reason) for found in reply.models}


def load(stub: Stub, name: str) -> pb.RepositoryModelLoadResponse:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    return stub.call(LOAD, request, pb.RepositoryModelLoadResponse)


def unload(stub: Stub, name: str) -> pb.RepositoryModelUnloadResponse:
    request = pb.RepositoryModelUnloadRequest(model_name=name)
    return stub.call(UNLOAD, request, pb.RepositoryModelUnloadResponse)


def test_the_index_lists_every_version_with_its_state(stub: Stub) -> None:
    found = index(stub)

    assert found.keys() == {"linear/1", "pair/1", "garbage/1"}
    assert found["linear/1"] == found["pair/1"] == ("READY", "")
    state, reason = found["garbage/1"]
    assert state == "UNAVAILABLE"
    assert reason


def test_the_index_of_what_is_ready_leaves_the_rest_out(stub: Stub) -> None:
    assert index(stub, ready=True).keys() == {"linear/1", "pair/1"}


def test_there_is_one_repository_without_a_name(stub: Stub) -> None:
    request = pb.RepositoryIndexRequest(repository_name="other")

    refusal = stub.refusal("RepositoryIndex", request)

    assert refusal.code is Code.UNIMPLEMENTED
    assert "'other'" in refusal.message


def test_an_unloaded_model_is_gone_until_it_is_loaded(stub: Stub) -> None:
    unload(stub, "linear")

    assert index(stub)["linear/1"][0] == "UNAVAILABLE"
    assert stub.refusal("ModelInfer", GOOD["linear"].request()).code is Code.NOT_FOUND
    assert_answered(stub, GOOD["pair"])

    load(stub, "linear")

    assert index(stub)["linear/1"] == ("READY", "")
    assert_answered(stub, GOOD["linear"])


def test_loading_finds_a_version_that_is_new_on_disk(stub: Stub, models: Path) -> None:
    onnx_files.save(onnx_files.linear(), models / "linear" / "2" / "model.onnx")
    onnx_files.save(onnx_files.linear(), models / "later" / "1" / "model.onnx")

    load(stub, "linear")
    load(stub, "later")

    assert stub.infer(GOOD["linear"].request()).model_version == "2"
    assert index(stub, ready=True).keys() == {"linear/1", "linear/2", "pair/1", "later/1"}


class KServe:
    """KServe's form of the messages, written byte by byte: the name is field 1."""

    @staticmethod
    def request(name: str) -> bytes:
        return b"\x0a" + bytes([len(name)]) + name.encode()

    @staticmethod
    def reply(name: str) -> bytes:
        return KServe.request(name) + b"\x10\x01"


@pytest.mark.parametrize("method", [LOAD, UNLOAD])
def test_both_forms_are_answered_to_both_clients(stub: Stub, method: str) -> None:
    reply_type = {LOAD: pb.RepositoryModelLoadResponse, UNLOAD: pb.RepositoryModelUnloadResponse}
    for request in (b"\x12\x04pair", KServe.request("pair")):
        reply = stub.call(method, request, reply_type[method])
        assert reply.SerializeToString() == KServe.reply("pair")
    assert index(stub)["pair/1"][0] == ("READY" if method == LOAD else "UNAVAILABLE")


@pytest.mark.parametrize("method", [LOAD, UNLOAD])
@pytest.mark.parametrize(
    "name", ["", "..", ".", ".hidden", "../linear", "linear/1", "/etc", "a\\b", "linear\0"]
)
def test_a_name_that_is_none_or_a_path_is_invalid(stub: Stub, method: str, name: str) -> None:
    refusal = stub.refusal(method, pb.RepositoryModelLoadRequest(model_name=name))

    assert refusal.code is Code.INVALID_ARGUMENT
    assert repr(name) in refusal.message
    assert refusal.violations.keys() == {"model_name"}
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("method", [LOAD, UNLOAD])
def test_another_repository_is_not_served(stub: Stub, method: str) -> None:
    request = pb.RepositoryModelLoadRequest(repository_name="other", model_name="linear")

    assert stub.refusal(method, request).code is Code.UNIMPLEMENTED


def test_loading_what_is_not_there_is_not_found(stub: Stub) -> None:
    refusal = stub.refusal(LOAD, pb.RepositoryModelLoadRequest(model_name="nothing"))

    assert refusal.code is Code.NOT_FOUND
    assert "'nothing'" in refusal.message
    assert "linear" in refusal.message


def test_loading_a_file_that_fails_says_why(stub: Stub, models: Path) -> None:
    refusal = stub.refusal(LOAD, pb.RepositoryModelLoadRequest(model_name="garbage"))

    assert refusal.code is Code.FAILED_PRECONDITION
    assert "'garbage' version 1" in refusal.message
    assert str(models) not in refusal.message
    assert_answered(stub, GOOD["linear"])


def test_unloading_what_is_not_there_is_fine(stub: Stub) -> None:
    assert unload(stub, "nothing") == pb.RepositoryModelUnloadResponse(
        model_name="nothing", isUnloaded=True
    )
    assert "nothing/1" not in index(stub)


@pytest.mark.parametrize(
    ("method", "parameter"),
    [
        (LOAD, "config"),
        (LOAD, "file:1/model.onnx"),
        (LOAD, "unload_dependents"),
        (UNLOAD, "config"),
        (UNLOAD, "nonsense"),
    ],
)
def test_a_parameter_that_is_unknown_is_invalid(stub: Stub, method: str, parameter: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="linear")
    request.parameters[parameter].string_param = "{}"

    refusal = stub.refusal(method, request)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert repr(parameter) in refusal.message
    assert index(stub)["linear/1"] == ("READY", "")


def test_what_tritonclient_sends_with_every_unload_is_taken(stub: Stub) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name="linear")
    request.parameters["unload_dependents"].bool_param = False

    stub.call(UNLOAD, request, pb.RepositoryModelUnloadResponse)

    assert index(stub)["linear/1"][0] == "UNAVAILABLE"


@pytest.mark.parametrize("method", [LOAD, UNLOAD])
@pytest.mark.parametrize("name", ["linear", "nothing", ""])
def test_without_the_operators_leave_nothing_changes(models: Path, method: str, name: str) -> None:
    with Server(Config(models=models, port=0)) as server, Stub(server.port) as stub:
        refusal = stub.refusal(method, pb.RepositoryModelLoadRequest(model_name=name))

        assert refusal.code is Code.PERMISSION_DENIED
        assert "--model-control" in refusal.message
        assert_answered(stub, GOOD["linear"])
        assert index(stub, ready=True).keys() == {"linear/1", "pair/1"}
