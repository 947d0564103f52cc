"""Who may call, and what: asked of real servers with real tokens."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.x509 import DNSName
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.certificates import HERE, Identity
from support.rpc import REPLIES, Refusal, Stub
from support.versions import put
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access import authenticator as access
from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.caller import ANYONE, Action
from forwardpass.server.access.tokens import TokensError, new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.errors import UnauthenticatedError
from forwardpass.server.rpc.service import Service

pytestmark = pytest.mark.usefixtures("transport")

DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
ROW = {"x": np.zeros((1, 2), np.float32)}
OPEN = {"ServerLive", "ServerReady"}
TOKENS = {
    "all": new_token("all", ["*"], list(Action)),
    "infer": new_token("infer", ["mine_*"], [Action.INFER]),
    "read": new_token("read", ["mine_*"], [Action.READ]),
    "control": new_token("control", ["mine_*"], [Action.CONTROL]),
}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


MAY = {name: {"metadata": bearer(made.token)} for name, made in TOKENS.items()}


@dataclass(frozen=True)
class Guarded:
    stub: Stub
    tokens: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Guarded]:
    """A server with models `mine_1` and `other`, and every token of TOKENS."""
    root = tmp_path_factory.mktemp("access")
    for name in ("mine_1", "other"):
        put(root / "models", name, 1, 1)
    tokens = root / "tokens"
    tokens.write_text("\n".join(made.line for made in TOKENS.values()))
    config = Config(models=root / "models", port=0, tokens=tokens, model_control=True)
    with Server(config) as server, Stub(server.port) as stub:
        yield Guarded(stub, tokens)


@pytest.fixture(scope="module")
def stub(guarded: Guarded) -> Stub:
    return guarded.stub


def infer(stub: Stub, model: str, token: str) -> Refusal:
    return stub.refusal("ModelInfer", infer_request(model, ROW), **MAY[token])


def test_a_token_calls_the_models_that_it_is_for(stub: Stub) -> None:
    # The second time by the plan that the first one left, which another token may not use.
    for _ in range(2):
        assert stub.infer(infer_request("mine_1", ROW), **MAY["infer"]).model_name == "mine_1"
        assert stub.infer(infer_request("other", ROW), **MAY["all"]).model_name == "other"
        assert infer(stub, "other", "infer").code is DENIED
        assert infer(stub, "mine_1", "read").code is DENIED


def test_what_is_denied_is_named_with_its_caller(stub: Stub) -> None:
    assert "'infer' has no permission to infer for model 'other'" in (
        infer(stub, "other", "infer").message
    )


def test_a_model_that_is_not_there_is_denied_as_one_that_is(stub: Stub) -> None:
    there, missing = infer(stub, "other", "infer"), infer(stub, "nowhere", "infer")

    assert missing.code is there.code
    assert missing.message == there.message.replace("other", "nowhere")


@pytest.mark.parametrize("name", sorted(REPLIES))
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", TOKENS["all"].token),),
        (("authorization", f"Basic {TOKENS['all'].token}"),),
        (("authorization", "Bearer"),),
        bearer(TOKENS["all"].token[:-1]),
        bearer(json.loads(TOKENS["all"].line)["sha256"]),
    ],
    ids=["none", "empty", "bare", "basic", "bearer of nothing", "cut", "hash"],
)
def test_no_rpc_but_the_probes_answers_strangers(
    stub: Stub, name: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    if name in OPEN:
        assert stub.call(name, b"", REPLIES[name], metadata=metadata).IsInitialized()
        return
    refusal = stub.refusal(name, b"", metadata=metadata)
    assert refusal.code is UNKNOWN
    assert "Bearer" in refusal.message
    assert TOKENS["all"].token[:-1] not in refusal.message


def test_the_probes_are_the_only_rpcs_that_are_open(guarded: Guarded) -> None:
    from forwardpass.server.health import Health
    from forwardpass.server.repository.catalog import Catalog

    unary = Service(Catalog(), Health()).unary
    assert {name for name, rpc in unary.items() if rpc.open} == OPEN


NAMED: dict[str, tuple[Message, str]] = {
    "ModelReady": (pb.ModelReadyRequest(name="{}"), "read"),
    "ModelMetadata": (pb.ModelMetadataRequest(name="{}"), "read"),
    "ModelConfig": (pb.ModelConfigRequest(name="{}"), "read"),
    "ModelStatistics": (pb.ModelStatisticsRequest(name="{}"), "read"),
    "RepositoryModelLoad": (pb.RepositoryModelLoadRequest(model_name="{}"), "control"),
    "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest(model_name="{}"), "control"),
}
"""RPCs about one model, and the permission that each needs."""

SERVER_WIDE: dict[str, Message] = {
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="r"),
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="r"),
    "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterRequest(),
    "LogSettings": pb.LogSettingsRequest(
        settings={"log_info": pb.LogSettingsRequest.SettingValue(bool_param=True)}
    ),
}
"""RPCs about the server as a whole."""


def about(request: Message, model: str) -> bytes:
    return request.SerializeToString().replace(b"\x02{}", bytes([len(model)]) + model.encode())


@pytest.mark.parametrize("name", NAMED)
def test_each_rpc_about_a_model_needs_its_kind_for_that_model(stub: Stub, name: str) -> None:
    request, needs = NAMED[name]

    assert stub.call(name, about(request, "mine_1"), REPLIES[name], **MAY[needs]) is not None
    assert stub.refusal(name, about(request, "other"), **MAY[needs]).code is DENIED
    for token in {"infer", "read", "control"} - {needs}:
        assert stub.refusal(name, about(request, "mine_1"), **MAY[token]).code is DENIED
    if name == "RepositoryModelUnload":
        load = pb.RepositoryModelLoadRequest(model_name="mine_1")
        stub.call("RepositoryModelLoad", load, REPLIES["RepositoryModelLoad"], **MAY["all"])


@pytest.mark.parametrize("name", SERVER_WIDE)
def test_what_concerns_the_whole_server_needs_permission_for_all_models(
    stub: Stub, name: str
) -> None:
    for token in ("infer", "read", "control"):
        refusal = stub.refusal(name, SERVER_WIDE[name], **MAY[token])
        assert refusal.code is DENIED
        assert "no permission" in refusal.message


@pytest.mark.parametrize("name", SERVER_WIDE)
def test_who_has_permission_for_all_models_is_held_by_the_flags_alone(
    stub: Stub, name: str
) -> None:
    request = SERVER_WIDE[name]
    if name == "SystemSharedMemoryRegister":
        assert "--shared-memory" in stub.refusal(name, request, **MAY["all"]).message
    elif name == "CudaSharedMemoryRegister":
        assert stub.refusal(name, request, **MAY["all"]).code is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert stub.call(name, request, REPLIES[name], **MAY["all"]) is not None


def test_reading_the_log_settings_changes_nothing_and_needs_read(stub: Stub) -> None:
    assert stub.refusal("LogSettings", b"", **MAY["read"]).code is DENIED
    assert stub.call("LogSettings", b"", pb.LogSettingsResponse, **MAY["all"]).settings


def test_lists_show_what_one_may_read(stub: Stub) -> None:
    def listed(token: str) -> tuple[set[str], set[str]]:
        index = stub.call("RepositoryIndex", b"", pb.RepositoryIndexResponse, **MAY[token])
        statistics = stub.call("ModelStatistics", b"", pb.ModelStatisticsResponse, **MAY[token])
        return {m.name for m in index.models}, {m.name for m in statistics.model_stats}

    assert listed("all") == ({"mine_1", "other"}, {"mine_1", "other"})
    assert listed("read") == ({"mine_1"}, {"mine_1"})
    assert listed("infer") == (set(), set())


@pytest.mark.parametrize("name", ["ModelInfer", "ModelMetadata", "ModelStatistics"])
def test_errors_name_only_models_that_one_may_read(stub: Stub, name: str) -> None:
    if name == "ModelInfer":
        refusal = stub.refusal(name, infer_request("mine_2", ROW), **MAY["infer"])
    else:
        refusal = stub.refusal(name, about(NAMED[name][0], "mine_2"), **MAY["read"])

    assert "mine_2" in refusal.message
    assert "other" not in refusal.message


def test_health_and_reflection_are_open(stub: Stub) -> None:
    check = stub.method("Check", health_pb2.HealthCheckResponse, "grpc.health.v1.Health")
    assert check(health_pb2.HealthCheckRequest(), timeout=20).status == 1

    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
    answers = reflection.ServerReflectionInfo(iter([listing]), timeout=20)
    assert [service.name for service in next(answers).list_services_response.service]


def test_a_stream_is_for_who_is_known_and_each_call_in_it_for_who_may(stub: Stub) -> None:
    requests = [infer_request("mine_1", ROW), infer_request("other", ROW)]

    answers = list(stub.stream(requests, **MAY["infer"]))
    assert [bool(answer.error_message) for answer in answers] == [False, True]
    assert "no permission to infer" in answers[1].error_message
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.stream(requests))
    assert raised.value.code() is UNKNOWN


def test_a_stream_of_a_stranger_ends_before_its_first_message(stub: Stub) -> None:
    def silent() -> Iterator[bytes]:
        time.sleep(20)
        yield b""

    call = stub.stream(silent())
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is UNKNOWN


def outcome(stub: Stub, token: str) -> grpc.StatusCode:
    try:
        stub.infer(infer_request("mine_1", ROW), **MAY[token])
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def wait_for(stub: Stub, token: str, code: grpc.StatusCode) -> None:
    deadline = time.monotonic() + 20
    while outcome(stub, token) is not code:
        assert time.monotonic() < deadline, f"{token} never was {code}"
        time.sleep(0.05)


def test_a_revoked_token_stops_working_while_the_server_runs(guarded: Guarded) -> None:
    before = guarded.tokens.read_text()
    stub = guarded.stub
    assert outcome(stub, "infer") is grpc.StatusCode.OK

    def endless() -> Iterator[pb.ModelInferRequest]:
        while True:
            time.sleep(0.05)
            yield infer_request("mine_1", ROW)

    stream = stub.stream(endless(), **MAY["infer"])
    assert not next(stream).error_message
    try:
        guarded.tokens.write_text("\n".join(TOKENS[name].line for name in ("all", "read")))
        wait_for(stub, "infer", UNKNOWN)
        assert outcome(stub, "all") is grpc.StatusCode.OK
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() is UNKNOWN
    finally:
        guarded.tokens.write_text(before)
    wait_for(stub, "infer", grpc.StatusCode.OK)


def test_a_file_that_breaks_leaves_things_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access, "LOOK_S", 0.0)
    file = tmp_path / "tokens"
    file.write_text(TOKENS["all"].line)
    known = Access(file)
    authorization = f"Bearer {TOKENS['all'].token}"

    for content in ("garbage", None):
        caplog.clear()
        file.unlink()
        if content is not None:
            file.write_text(content)
        for _ in range(3):
            assert known.caller(authorization).name == "all"
        assert len(caplog.records) == 1
        assert str(file) in caplog.text


def test_a_file_that_is_emptied_leaves_things_as_they_were_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access, "LOOK_S", 0.0)
    file = tmp_path / "tokens"
    file.write_text(TOKENS["all"].line)
    known = Access(file)
    authorization = f"Bearer {TOKENS['all'].token}"

    for content in ("", " \n\n"):
        caplog.clear()
        file.write_text(content)
        for _ in range(3):
            assert known.caller(authorization).name == "all"
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "it is empty; the previous content stays in force" in record.getMessage()

    # Whoever means it says so.
    file.write_text("# nobody may call")
    with pytest.raises(UnauthenticatedError):
        known.caller(authorization)
    # Then nobody is kept who was not there.
    file.write_text("")
    with pytest.raises(UnauthenticatedError):
        known.caller(authorization)


def test_a_file_that_others_may_read_is_warned_of_at_the_start_and_when_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access, "LOOK_S", 0.0)
    file = tmp_path / "tokens"

    file.write_text(TOKENS["all"].line)
    file.chmod(0o644)
    known = Access(file)
    assert "others may read or change it (mode 644)" in caplog.text

    for number, (mode, warns) in enumerate([(0o600, False), (0o604, True), (0o662, True)]):
        caplog.clear()
        file.write_text(TOKENS["all"].line + "\n" * number)
        file.chmod(mode)
        known.reread()
        assert ("others may read or change it" in caplog.text) is warns


def test_a_server_does_not_start_without_its_file_of_tokens(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TokensError, match="missing"):
        Server(Config(models=root, port=0, tokens=tmp_path / "missing"))


def test_without_a_tokens_file_nobody_is_authenticated() -> None:
    assert not Access().required
    assert Access().caller(None) is ANYONE


def test_guesses_neither_are_remembered_nor_push_out_who_is_known(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKENS["all"].line)
    known = Access(file)
    caller = known.caller(f"Bearer {TOKENS['all'].token}")

    for number in range(5000):
        with pytest.raises(UnauthenticatedError):
            known.caller(f"Bearer fp_{number}")
    # Space makes each of these another text of the same token.
    for number in range(3000):
        assert known.caller("Bearer " + " " * number + TOKENS["all"].token) is caller

    assert len(known._now.callers) <= 1024


def test_a_client_certificate_is_known_by_its_name_and_a_token_goes_over_it(
    tmp_path: Path,
) -> None:
    authority = Identity.make("authority")
    cert, key = Identity.make("server", authority).write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.chain_pem)
    put(tmp_path / "models", "mine_1", 1, 1)
    names = {"job": "job.example.org", "plain name": "plain"}
    lines = [
        json.dumps({"name": name, "certificate": certificate, "models": ["*"], "calls": ["infer"]})
        for name, certificate in names.items()
    ]
    tokens = tmp_path / "tokens"
    tokens.write_text("\n".join([*lines, TOKENS["read"].line]))
    config = Config(
        models=tmp_path / "models",
        port=0,
        tls_cert=cert,
        tls_key=key,
        tls_client_ca=tmp_path / "ca.pem",
        tokens=tokens,
    )

    with Server(config) as server:
        by_certificate = {
            "job": Identity.make("whatever", authority, names=[DNSName("job.example.org"), *HERE]),
            "plain name": Identity.make("plain", authority, names=[]),
            "stranger": Identity.make("stranger", authority, names=[DNSName("other.example.org")]),
            # A common name counts only where there is no alternative name.
            "pretender": Identity.make("plain", authority, names=[DNSName("other.example.org")]),
        }
        codes = {}
        for name, client in by_certificate.items():
            credentials = grpc.ssl_channel_credentials(
                authority.chain_pem, client.key_pem, client.chain_pem
            )
            with Stub(server.port, credentials) as stub:
                codes[name] = outcome_of(stub), outcome_of(stub, **MAY["read"])
    assert codes == {
        "job": (grpc.StatusCode.OK, DENIED),
        "plain name": (grpc.StatusCode.OK, DENIED),
        "stranger": (UNKNOWN, DENIED),
        "pretender": (UNKNOWN, DENIED),
    }


def outcome_of(stub: Stub, **options: object) -> grpc.StatusCode:
    try:
        stub.infer(infer_request("mine_1", ROW), **options)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
