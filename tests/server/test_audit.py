"""Who changed a server, and whom it refused, each in a line of JSON with name and address."""

import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Identity
from support.rpc import REPLIES, Stub
from support.versions import BROKEN, label, put, question, remove
from support.waiting import eventually

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server import audit
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.process.incidents import LINES_PER_S, Incident

pytestmark = pytest.mark.usefixtures("transport")

TOKENS = {
    "operator": new_token("operator", ["*"], list(Action)),
    "web": new_token("web", ["other"], [Action.INFER]),
}
PEER = re.compile(r"ipv4:127\.0\.0\.1:\d+")
OFF = pb.LogSettingsRequest(
    settings={"log_error": pb.LogSettingsRequest.SettingValue(bool_param=False)}
)
ON = pb.LogSettingsRequest(
    settings={"log_info": pb.LogSettingsRequest.SettingValue(bool_param=True)}
    | {
        name: pb.LogSettingsRequest.SettingValue(bool_param=True)
        for name in ("log_error", "log_warning")
    }
)


@dataclass(frozen=True)
class Audited:
    """A server that callers may change, and what its audit has so far."""

    server: Server
    stub: Stub
    models: Path
    log: pytest.LogCaptureFixture

    def call(self, name: str, request: Any, token: str = "") -> grpc.StatusCode:
        metadata = [("authorization", f"Bearer {TOKENS[token].token}")] if token else []
        try:
            self.stub.call(name, request, REPLIES[name], metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        """The lines with these fields, without addresses of callers, which are proven."""
        lines = []
        for record in self.log.records:
            if record.name == "forwardpass.audit":
                line = json.loads(record.getMessage())
                assert record.__dict__["fields"] == {"message": "audit", **line}
                peer = line.pop("peer")
                assert PEER.fullmatch(peer) if line["caller"] != audit.FILE else not peer
                lines.append(line)
        return [line for line in lines if line.items() >= wanted.items()]


@pytest.fixture
def audited(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Audited]:
    tokens = tmp_path / "tokens"
    tokens.write_text("\n".join(made.line for made in TOKENS.values()))
    config = Config(models=root, port=0, tokens=tokens, model_control=True, poll_s=0.02)
    with Server(config) as server, Stub(server.port) as stub:
        caplog.clear()
        yield Audited(server, stub, root, caplog)


def test_loads_and_unloads_stand_with_their_caller_and_their_end(audited: Audited) -> None:
    for name, request in {
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="m"),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="m"),
    }.items():
        assert audited.call(name, request, "operator") is grpc.StatusCode.OK
    missing = pb.RepositoryModelLoadRequest(model_name="nothing of ours")
    assert audited.call("RepositoryModelLoad", missing, "operator") is grpc.StatusCode.NOT_FOUND

    eventually(lambda: len(audited.lines(caller="operator")) == 3)
    assert audited.lines(caller="operator") == [
        {"event": "unload", "caller": "operator", "model": "m", "code": "OK"},
        {"event": "load", "caller": "operator", "model": "m", "code": "OK"},
        # What is in no repository is a text of the caller's.
        {"event": "load", "caller": "operator", "model": "", "code": "NOT_FOUND"},
    ]


def test_what_files_change_stands_with_them_as_the_caller(audited: Audited) -> None:
    root = audited.models
    put(root, "m", 2, 2)
    eventually(lambda: audited.lines(event="load"))
    label(root, "m", {"stable": 1})
    eventually(lambda: audited.lines(after=1))
    label(root, "m", {"stable": 2})
    eventually(lambda: audited.lines(after=2))
    label(root, "m", {})
    eventually(lambda: audited.lines(after=None, event="label"))
    put(root, "m", 3, BROKEN)
    eventually(lambda: audited.lines(version=3))
    remove(root, "m", 1)
    eventually(lambda: audited.lines(event="unload"))

    about: dict[str, object] = {"caller": "file", "model": "m"}
    moved = {"event": "label", **about, "label": "stable"}
    assert audited.lines() == [
        {"event": "load", **about, "version": 2, "code": "OK"},
        {**moved, "before": None, "after": 1},
        {**moved, "before": 1, "after": 2},
        {**moved, "before": 2, "after": None},
        {"event": "load", **about, "version": 3, "code": "FAILED_PRECONDITION"},
        {"event": "unload", **about, "version": 1, "code": "OK"},
    ]


def test_who_changes_the_log_settings_cannot_silence_the_audit(audited: Audited) -> None:
    try:
        assert audited.call("LogSettings", OFF, "operator") is grpc.StatusCode.OK
        assert audited.call("ServerMetadata", b"") is grpc.StatusCode.UNAUTHENTICATED
        # Reading them is no change.
        assert audited.call("LogSettings", b"", "operator") is grpc.StatusCode.OK
    finally:
        audited.call("LogSettings", ON, "operator")
        logging.getLogger("forwardpass").setLevel(logging.NOTSET)

    (changed, _) = audited.lines(event="log_settings")
    assert changed == {
        "event": "log_settings",
        "caller": "operator",
        "settings": {"log_error": False},
    }
    assert len(audited.lines(event="refused")) == 1


@pytest.mark.parametrize(
    ("name", "request_", "needs"),
    [
        ("ModelInfer", question("m"), "infer"),
        ("ModelReady", pb.ModelReadyRequest(name="m"), "read"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="m"), "read"),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="m"), "control"),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="m"), "control"),
        ("LogSettings", OFF, "control"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_is_refused_stands_there(
    audited: Audited, name: str, request_: Any, needs: str
) -> None:
    assert audited.call(name, request_, "web") is grpc.StatusCode.PERMISSION_DENIED
    assert audited.call(name, request_) is grpc.StatusCode.UNAUTHENTICATED

    about = {} if name == "LogSettings" else {"model": "m"}
    denied = {"event": "refused", "caller": "web", "code": "PERMISSION_DENIED", "needs": needs}
    unknown = {"event": "refused", "caller": "", "code": "UNAUTHENTICATED"}
    assert audited.lines() == [{**denied, **about}, unknown]


def test_names_that_are_not_served_are_not_logged(audited: Audited) -> None:
    assert audited.call("ModelInfer", question("MARKED"), "web") is not grpc.StatusCode.OK
    assert audited.lines(event="refused")
    assert "MARKED" not in audited.log.text


def test_refusals_on_streams_stand_there(audited: Audited) -> None:
    metadata = [("authorization", f"Bearer {TOKENS['web'].token}")]
    (answer,) = audited.stub.stream([question("m")], metadata=metadata)
    assert "no permission" in answer.error_message
    with pytest.raises(grpc.RpcError):
        list(audited.stub.stream([question("m")]))

    codes = [line["code"] for line in audited.lines(event="refused")]
    assert codes == ["PERMISSION_DENIED", "UNAUTHENTICATED"]


def test_a_flood_of_refusals_is_counted_and_leaves_the_log_legible(audited: Audited) -> None:
    count, began = 10 * LINES_PER_S, time.monotonic()
    for _ in range(count):
        audited.call("ServerMetadata", b"")

    assert audited.server._incidents.total(Incident.UNAUTHENTICATED) == count
    logged = audited.lines(event="refused")
    assert LINES_PER_S <= len(logged) <= LINES_PER_S * (2 + time.monotonic() - began)


def test_what_the_operator_does_not_allow_is_a_refusal(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(Config(models=root, port=0)) as server, Stub(server.port) as stub:
        audited = Audited(server, stub, root, caplog)
        caplog.clear()
        load = pb.RepositoryModelLoadRequest(model_name="m")
        assert audited.call("RepositoryModelLoad", load) is grpc.StatusCode.PERMISSION_DENIED
        assert audited.lines() == [{"event": "refused", "caller": "", "code": "PERMISSION_DENIED"}]


def test_without_tokens_a_caller_has_the_name_in_its_certificate(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Identity.make("authority")
    cert, key = Identity.make("server", authority).write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.chain_pem)
    client = Identity.make("deployer", authority, names=[])
    credentials = grpc.ssl_channel_credentials(
        authority.chain_pem, client.key_pem, client.chain_pem
    )
    config = Config(
        models=root,
        port=0,
        model_control=True,
        tls_cert=cert,
        tls_key=key,
        tls_client_ca=tmp_path / "ca.pem",
    )
    with Server(config) as server, Stub(f"localhost:{server.port}", credentials) as stub:
        audited = Audited(server, stub, root, caplog)
        caplog.clear()
        load = pb.RepositoryModelLoadRequest(model_name="m")
        assert audited.call("RepositoryModelLoad", load) is grpc.StatusCode.OK
        eventually(audited.lines)
        assert audited.lines() == [
            {"event": "load", "caller": "deployer", "model": "m", "code": "OK"}
        ]
