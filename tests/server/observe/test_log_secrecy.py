"""No secret and no input gets into the log, at the most verbose level."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from support import onnx_files
from support.certificates import Identity
from support.command import serving
from support.rpc import Stub
from support.versions import put
from support.wire import infer_request, texts

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.config import Transport

pytestmark = pytest.mark.usefixtures("transport")

MARK = "MARKED"
NUMBER = 1234567.0
"""Exact in float32; no clock, port or count has these digits in a row."""


@dataclass(frozen=True)
class Told:
    log: str
    key: bytes
    secrets: list[str]


@pytest.fixture(scope="module", params=["text", "json"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, transport: Transport
) -> Told:
    """The log of a server that was called in every way with marked inputs and secrets."""
    root = tmp_path_factory.mktemp("secrecy")
    put(root / "models", "m", 1, 1)
    for name, model in {
        "text": onnx_files.identity("BYTES", ["n"]),
        "pick": onnx_files.pick(),
    }.items():
        onnx_files.save(model, root / "models" / name / "1" / "model.onnx")
    identity = Identity.make("authority")
    cert, key = identity.write(root)
    good, revoked = (new_token(name, ["*"], list(Action)) for name in ("web", "revoked"))
    tokens = root / "tokens"
    tokens.write_text(f"{good.line}\n{revoked.line}")
    log = root / "log"
    options: list[str | Path] = ["--port", "0", "--tls-cert", cert, "--tls-key", key]
    options += ["--tokens", tokens, "--log-calls", "--log-format", request.param]
    options += ["--metrics-port", "0", "--model-control", "--shared-memory", "--drain-s", "0"]
    with serving(root / "models", *options, log=log) as server:
        target = server.target.replace("127.0.0.1", "localhost")
        credentials = grpc.ssl_channel_credentials(identity.chain_pem)
        with Stub(target, credentials) as stub:
            call_in_every_way(stub, good.token, revoked.token)
            tokens.write_text(f"{good.line}\n{MARK} no line at all")
            (root / "key.pem").write_text(f"{MARK} no key")
            # Longer than a change may go unnoticed.
            time.sleep(1.2)
        with Stub(target, credentials) as stub:
            stub.infer(rows("m"), metadata=bearer(good.token))
        server.process.terminate()
        server.process.wait(30)
    secrets = [good.token, revoked.token, MARK, str(int(NUMBER))]
    return Told(log.read_text(), identity.key_pem, secrets)


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def rows(model: str) -> pb.ModelInferRequest:
    return infer_request(model, {"x": np.full((2, 2), NUMBER, np.float32)})


def call_in_every_way(stub: Stub, token: str, other: str) -> None:
    may = {"metadata": bearer(token)}
    verbose = pb.LogSettingsRequest()
    verbose.settings["log_verbose_level"].uint32_param = 1
    stub.call("LogSettings", verbose, pb.LogSettingsResponse, **may)
    stub.infer(rows("m"), **may)
    stub.infer(rows("m"), metadata=bearer(other))
    stub.infer(infer_request("text", {"x": texts(MARK.encode())}), **may)
    list(stub.stream([rows("m"), infer_request("text", {"x": texts(MARK.encode())})], **may))
    refused: list[pb.ModelInferRequest | bytes] = [
        infer_request("text", {"x": texts(MARK.encode() + b"\xff")}),
        infer_request("m", {"x": np.full((2, 3), NUMBER, np.float32)}),
        infer_request("m", {f"{MARK}_name": np.full((2, 2), NUMBER, np.float32)}),
        infer_request(f"{MARK}_model", {"x": np.full((2, 2), NUMBER, np.float32)}),
        infer_request("pick", {"index": np.array([int(NUMBER)])}),
        infer_request("m", {"x": np.ones((1, 2), np.float32)}, id=MARK, model_version=MARK),
        MARK.encode(),
    ]
    for request in refused:
        stub.refusal("ModelInfer", request, **may)
    list(stub.stream(refused, **may))
    for name in ("ModelMetadata", "ModelStatistics", "ModelConfig", "RepositoryModelLoad"):
        unknown = pb.ModelMetadataRequest(name=f"{MARK}_model")
        stub.refusal(name, unknown.SerializeToString(), **may)
    for wrong in (f"{MARK}_token", token[:-1]):
        stub.refusal("ModelInfer", rows("m"), metadata=bearer(wrong))
    shared = pb.SystemSharedMemoryRegisterRequest(name=MARK, key=f"/{MARK}", byte_size=8)
    stub.refusal("SystemSharedMemoryRegister", shared, **may)


def test_marked_secrets_are_logged_nowhere(told: Told) -> None:
    for secret in told.secrets:
        assert secret not in told.log
    for line in told.key.decode().splitlines()[1:-1]:
        assert line not in told.log


def test_the_calls_themselves_are_logged(told: Told) -> None:
    # Or the test above would pass with an empty log.
    lines = told.log.splitlines()
    calls = [line for line in lines if "request_id" in line]
    assert sum("INVALID_ARGUMENT" in line for line in calls) >= 10
    assert sum("UNAUTHENTICATED" in line for line in calls) == 2
    assert any("tokens, line 2" in line for line in lines)
    assert any("the old certificate stays in use" in line for line in lines)


def test_lines_of_json_are_json_and_lines_of_text_are_not(told: Told) -> None:
    for line in told.log.splitlines():
        if told.log.startswith("{"):
            assert json.loads(line)["time"]
        else:
            assert not line.startswith("{")
