"""The repository over the wire: who sees it, who may change it, in Triton's and KServe's form."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support import onnx_files
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.waiting import eventually

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.repository.control import MAX_WAITING
from forwardpass.server.rpc.method import NAMES_BYTES

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


@pytest.mark.parametrize("size", [1, 2**15, 2**16, 2**20])
@pytest.mark.parametrize("parameter", ["config", "file:1/model.onnx"])
def test_files_and_settings_of_triton_are_refused_alike_whatever_their_size(
    stub: Stub, parameter: str, size: int
) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="linear")
    request.parameters[parameter].bytes_param = bytes(size)

    refusal = stub.refusal(LOAD, request)

    # Above what requests with names alone may have, a message is not read.
    large = request.ByteSize() > NAMES_BYTES
    assert refusal.code is (Code.RESOURCE_EXHAUSTED if large else Code.INVALID_ARGUMENT)
    assert (
        "takes the name alone, neither Triton's 'config' nor its files ('file:...'): write "
        "config.pbtxt and model.onnx into the repository, then load the model by its name"
    ) in refusal.message
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


@contextmanager
def loading_slowly(server: Server) -> Iterator[Event]:
    """Have loads last until the event is set, or the block ends."""
    load, go_on = server.lifecycle._load, Event()

    def slowly(file: Any) -> Any:
        assert go_on.wait(60)
        return load(file)

    server.lifecycle._load = slowly
    try:
        yield go_on
    finally:
        go_on.set()
        server.lifecycle._load = load


def waiting(server: Server) -> int:
    control = server._control
    return len(control._waiting) + len(control._made)


@pytest.fixture
def controlled(models: Path) -> Iterator[Server]:
    """A server with two threads for calls, and a model on disk that it has not loaded."""
    config = Config(models=models, port=0, model_control=True, watch=False, workers=2)
    with Server(config) as server:
        onnx_files.save(onnx_files.linear(), models / "later" / "1" / "model.onnx")
        yield server


def ask(stub: Stub, method: str = LOAD) -> "Future[Any]":
    request = pb.RepositoryModelLoadRequest(model_name="later")
    reply = {LOAD: pb.RepositoryModelLoadResponse, UNLOAD: pb.RepositoryModelUnloadResponse}
    asked: Future[Any] = stub.method(method, reply[method]).future(request, timeout=60)
    return asked


def test_forty_loads_of_a_slow_model_keep_nobody_else_waiting(controlled: Server) -> None:
    with Stub(controlled.port) as stub, loading_slowly(controlled) as go_on:
        asked = [ask(stub) for _ in range(39)] + [ask(stub, UNLOAD)]
        eventually(lambda: waiting(controlled) == 40)

        assert_answered(stub, GOOD["linear"])
        check = stub.method("Check", health_pb2.HealthCheckResponse, "grpc.health.v1.Health")
        assert check(health_pb2.HealthCheckRequest(), timeout=20).status == 1
        assert stub.call("ServerReady", b"", pb.ServerReadyResponse).ready
        assert stub.call("ModelMetadata", b"\x0a\x04pair", pb.ModelMetadataResponse).inputs
        assert index(stub)["linear/1"][0] == "READY"
        assert not any(each.done() for each in asked)

        go_on.set()
        for each in asked[:-1]:
            assert each.result(60).isLoaded
        assert asked[-1].result(60).isUnloaded


def test_loads_above_the_limit_are_refused_and_one_who_goes_away_frees_a_place(
    controlled: Server,
) -> None:
    with Stub(controlled.port) as stub, loading_slowly(controlled) as go_on:
        asked = [ask(stub) for _ in range(MAX_WAITING)]
        eventually(lambda: waiting(controlled) == MAX_WAITING)

        request = pb.RepositoryModelLoadRequest(model_name="later")
        refusal = stub.refusal(LOAD, request)
        assert refusal.code is Code.RESOURCE_EXHAUSTED
        assert f"{MAX_WAITING} callers wait" in refusal.message

        # The first is of the load that has begun.
        for gone in (asked.pop(0), asked.pop()):
            gone.cancel()
        eventually(lambda: waiting(controlled) == MAX_WAITING - 2)
        # One whose time runs out goes away as well.
        assert stub.refusal(LOAD, request, timeout=0.2).code is Code.DEADLINE_EXCEEDED
        eventually(lambda: waiting(controlled) == MAX_WAITING - 2)

        asked += [ask(stub), ask(stub)]
        eventually(lambda: waiting(controlled) == MAX_WAITING)
        go_on.set()
        for each in asked:
            assert each.result(60).isLoaded


def test_a_drain_ends_loads_that_have_not_begun(controlled: Server) -> None:
    with Stub(controlled.port) as stub, loading_slowly(controlled) as go_on:
        begun = ask(stub)
        eventually(lambda: len(controlled._control._made) == 1)
        waits = ask(stub, UNLOAD)
        eventually(lambda: waiting(controlled) == 2)

        controlled.drain()

        with pytest.raises(grpc.RpcError) as raised:
            waits.result(20)
        assert raised.value.code() is Code.UNAVAILABLE
        go_on.set()
        assert begun.result(60).isLoaded


def test_loads_of_different_models_are_answered_each_with_its_own_end(
    stub: Stub, models: Path
) -> None:
    for name in ("a", "b"):
        onnx_files.save(onnx_files.linear(), models / name / "1" / "model.onnx")
    names = ["a", "garbage", "nothing", "b"] * 4
    with ThreadPoolExecutor(len(names)) as callers:
        codes = list(
            callers.map(
                lambda name: stub.outcome(LOAD, pb.RepositoryModelLoadRequest(model_name=name)),
                names,
            )
        )
    ends = {"a": Code.OK, "b": Code.OK, "garbage": Code.FAILED_PRECONDITION}
    assert codes == [ends.get(name, Code.NOT_FOUND) for name in names]
