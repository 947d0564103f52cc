"""What the operator allows, and how a caller beyond it is told."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support import onnx_files
from support.certificates import Identity
from support.rpc import Stub

from forwardpass.client import Client, InvalidInputError, OverloadedError, ServerUnavailableError
from forwardpass.models import Network, publish
from forwardpass.server.app import Server
from forwardpass.server.config import Config

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    publish(Network.chain([512, 1024, 1024, 512], name="wide"), root)
    return root


def client_of(server: Server) -> Client:
    # Told at once: another try would find room.
    return Client(f"127.0.0.1:{server.port}", retry=None)


def rows(count: int) -> np.ndarray:
    return np.ones((count, 512), np.float32)


def test_a_call_above_the_row_limit_is_refused_with_the_flag(repository: Path) -> None:
    with Server(Config(models=repository, port=0, max_rows=10)) as server:
        with client_of(server) as client:
            assert client.predict("wide", rows(10))["y"].shape == (10, 512)
            with pytest.raises(OverloadedError, match=r"11 rows .* limit of 10.*--max-rows"):
                client.predict("wide", rows(11))
            client.predict("wide", rows(10))


def test_a_full_queue_refuses_with_the_flag_and_goes_on(repository: Path) -> None:
    with Server(Config(models=repository, port=0, max_queue=1)) as server:
        with client_of(server) as client, ThreadPoolExecutor(12) as threads:
            client.predict("wide", rows(1))
            together = threading.Barrier(12)

            def call(_: int) -> str:
                together.wait(10)
                try:
                    client.predict("wide", rows(512))
                except OverloadedError as error:
                    return str(error)
                return ""

            refused = [text for text in threads.map(call, range(12)) if text]
            assert refused
            assert all("--max-queue" in text for text in refused)
            client.predict("wide", rows(1))


def test_a_deadline_that_passes_in_the_queue_leaves_the_others_their_answers(
    repository: Path,
) -> None:
    with Server(Config(models=repository, port=0)) as server:
        with client_of(server) as client, ThreadPoolExecutor(8) as threads:
            client.predict("wide", rows(1))
            patient = [threads.submit(client.predict, "wide", rows(512)) for _ in range(6)]
            hasty = threads.submit(client.predict, "wide", rows(512), timeout_s=0.001)
            with pytest.raises(TimeoutError):
                hasty.result(30)
            for future in patient:
                assert future.result(30)["y"].shape == (512, 512)


def test_connections_above_the_limit_are_closed_and_the_others_go_on(repository: Path) -> None:
    with (
        Server(Config(models=repository, port=0, max_connections=3)) as server,
        client_of(server) as client,
        ExitStack() as stack,
    ):
        client.predict("wide", rows(1))
        for _ in range(20):
            idle = stack.enter_context(
                closing(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            )
            # Told from one that is refused by what a server of HTTP/2 says first.
            idle.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        # gRPC would share the first one's connection.
        own = [("grpc.use_local_subchannel_pool", 1)]
        late = stack.enter_context(Client(f"127.0.0.1:{server.port}", options=own))
        with pytest.raises(ServerUnavailableError):
            late.predict("wide", rows(1), timeout_s=5)
        client.predict("wide", rows(1))


def test_tls_handshakes_count_as_connections(repository: Path, tmp_path: Path) -> None:
    authority = Identity.make("authority")
    cert, key = Identity.make("server", authority).write(tmp_path)
    config = Config(models=repository, port=0, max_connections=3, tls_cert=cert, tls_key=key)
    with Server(config) as server, ExitStack() as stack:
        place = "127.0.0.1", server.port
        silent = [stack.enter_context(socket.create_connection(place, 20)) for _ in range(3)]
        # Closed without a word, or before the first.
        with socket.create_connection(place, 20) as one_more:
            assert one_more.recv(1) == b""
        for each in silent:
            each.close()
        deadline = time.monotonic() + 20
        while True:
            trust = grpc.ssl_channel_credentials(authority.chain_pem)
            own = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(f"localhost:{server.port}", trust, own) as channel:
                try:
                    method: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                    method(b"", timeout=10)
                    break
                except grpc.RpcError:
                    # The server has not noticed yet that they are gone.
                    assert time.monotonic() < deadline


def test_calls_above_the_limit_of_a_connection_are_refused_in_a_way_to_try_again(
    repository: Path,
) -> None:
    def call(_: int) -> bool:
        try:
            return client.predict("wide", rows(3))["y"].shape == (3, 512)
        except ServerUnavailableError:
            # HTTP/2's REFUSED_STREAM: the call was not looked at.
            return False

    config = Config(models=repository, port=0, max_calls_per_connection=2)
    with Server(config) as server, client_of(server) as client, ThreadPoolExecutor(16) as threads:
        answered = list(threads.map(call, range(64)))
        assert any(answered)
        assert call(0)


def test_a_shape_that_no_message_holds_is_no_matter_of_the_row_limit(repository: Path) -> None:
    with Server(Config(models=repository, port=0)) as server, client_of(server) as client:
        with pytest.raises(InvalidInputError):
            client.predict("wide", np.ones((1, 511), np.float32))


def test_the_limits_are_on_streams_too(repository: Path) -> None:
    with (
        Server(Config(models=repository, port=0, max_streams=1)) as server,
        Stub(server.port) as stub,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        del stub
        open_stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer"
        )
        hold = threading.Event()

        def silent() -> Iterator[bytes]:
            hold.wait(30)
            yield from ()

        first = open_stream(silent())
        # Let the first one arrive.
        threading.Event().wait(0.3)
        with pytest.raises(grpc.RpcError) as caught:
            next(open_stream(iter(())))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--max-streams" in str(caught.value.details())
        hold.set()
        assert list(first) == []
