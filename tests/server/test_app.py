"""The server as a whole: it starts, it says what it is, it ends without losing a call."""

import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import onnx_files
from support.process import server_process
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.wire import arrays, infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits
from forwardpass.server.process.cpus import available_cpus
from forwardpass.server.repository.disk import RepositoryError
from forwardpass.server.transport.listening import ListenError

pytestmark = pytest.mark.usefixtures("transport", "shared_trial")

Code = grpc.StatusCode


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    onnx_files.save(onnx_files.slow(), tmp_path / "slow.onnx")
    return tmp_path


def health(stub: Stub, name: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    stub_of_theirs: Any = health_pb2_grpc.HealthStub(stub.channel)
    return int(stub_of_theirs.Check(request, timeout=10).status)


def ready(stub: Stub) -> bool:
    return stub.call("ServerReady", b"", pb.ServerReadyResponse).ready


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slow_request(turns: int) -> pb.ModelInferRequest:
    return infer_request("slow", {"turns": np.array(turns)})


def turns_for(stub: Stub, seconds: float) -> int:
    """How many turns of `slow` take about that long on this machine."""
    trials = []
    for _ in range(3):
        start = time.monotonic()
        stub.infer(slow_request(100))
        trials.append(time.monotonic() - start)
    return round(100 * seconds / min(trials))


FOREVER = 10**6
"""Turns of `slow` that outlast any test."""


def test_a_started_server_is_ready_and_a_stopped_one_is_gone(models: Path) -> None:
    server = Server(Config(models=models, port=0))
    with Stub(server.port) as stub:
        with server:
            assert ready(stub)
            assert_answered(stub, GOOD["linear"])
        assert stub.refusal("ModelInfer", GOOD["linear"].request()).code is Code.UNAVAILABLE


@pytest.mark.parametrize("name", ["linear.onnx", "."])
def test_a_file_or_a_directory_is_served(models: Path, name: str) -> None:
    with Server(Config(models=models / name, port=0)) as server, Stub(server.port) as stub:
        assert_answered(stub, GOOD["linear"])


def test_a_path_without_models_is_refused_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="nowhere"):
        Server(Config(models=tmp_path / "nowhere", port=0))


def refusal(models: Path, transport: Transport, **place: Any) -> str:
    with pytest.raises(ListenError) as refused:
        Server(Config(models=models, transport=transport, **place))
    return str(refused.value)


def test_an_address_that_cannot_be_listened_on_is_reported_with_the_fix(
    models: Path, tmp_path: Path, transport: Transport
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal(models, transport, port=port) == (
            f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port, 0 "
            "for any that is free, or stop what listens there"
        )
    elsewhere = refusal(models, transport, host="192.0.2.1", port=0)
    assert elsewhere.startswith("cannot listen on 192.0.2.1:0: Cannot assign requested address; ")
    assert "choose an address of this machine" in elsewhere
    nowhere = refusal(models, transport, host="no.such.host.invalid", port=0)
    assert nowhere.startswith("cannot listen on no.such.host.invalid:0: ")
    assert "choose an address of this machine" in nowhere
    missing = refusal(models, transport, host=f"unix:{tmp_path}/no/socket")
    assert "No such file or directory; choose another path" in missing
    (tmp_path / "file").write_text("kept")
    used = refusal(models, transport, host=f"unix:{tmp_path}/file")
    assert "Address already in use; choose another path" in used
    assert (tmp_path / "file").read_text() == "kept"


def test_two_servers_do_not_share_a_port(models: Path) -> None:
    with (
        Server(Config(models=models, port=0)) as server,
        pytest.raises(ListenError, match=str(server.port)),
    ):
        Server(Config(models=models, port=server.port))


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_host_is_taken_with_brackets_or_without(models: Path, host: str) -> None:
    with (
        Server(Config(models=models, host=host, port=0)) as server,
        Stub(f"[::1]:{server.port}") as stub,
    ):
        assert_answered(stub, GOOD["linear"])


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_every_ipv6_address_is_listened_on_for_calls_and_metrics(
    models: Path, transport: Transport
) -> None:
    # As deploy/kubernetes/components/ipv6 has it.
    config = Config(models=models, host="::", port=0, metrics_host="::", metrics_port=0)
    with Server(config) as server:
        # Where there is IPv4 as well, both.
        for address in ("[::1]", "127.0.0.1"):
            with Stub(f"{address}:{server.port}") as stub:
                assert_answered(stub, GOOD["linear"])
            url = f"http://{address}:{server.metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert b"forwardpass_ready 1" in answer.read()


def test_every_address_of_a_host_is_listened_on_but_those_that_are_not_here(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As `localhost` has two on most machines, in a file of hosts that no test may write.
    here, too, away = "127.0.0.1", "127.0.0.2", "192.0.2.1"

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        places = (away, here, too, here) if host == "many.test" else (host,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in places]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    config = Config(models=models, host="many.test", port=0, transport=Transport.ASYNCIO)
    with Server(config) as server:
        monkeypatch.undo()
        for address in (here, too):
            with Stub(f"{address}:{server.port}") as stub:
                assert_answered(stub, GOOD["linear"])
    for address in (here, too):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, server.port), 10).close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", 64 * "a"])
def test_a_host_that_is_not_this_one_is_refused_by_name(models: Path, host: str) -> None:
    with pytest.raises(ListenError, match=host):
        Server(Config(models=models, host=host, port=0))


def test_a_call_that_waits_past_its_deadline_is_never_computed(
    models: Path, transport: Transport
) -> None:
    server = Server(Config(models=models, port=0, workers=1, limits=Limits(general=True)))
    # The event loop has a thread for each CPU, whatever `workers` says.
    busy = 1 if transport is Transport.GRPCIO else available_cpus()
    with Stub(server.port) as stub, server, ThreadPoolExecutor(busy) as pool:
        turns = turns_for(stub, 0.5)
        first = [pool.submit(stub.infer, slow_request(turns)) for _ in range(busy)]
        time.sleep(0.1)

        refusal = stub.refusal("ModelInfer", slow_request(20 * turns), timeout=0.2)

        assert refusal.code is Code.DEADLINE_EXCEEDED
        for call in first:
            call.result()
        # Its ten seconds would hold a thread that answers.
        before = time.process_time()
        assert_answered(stub, GOOD["linear"])
        time.sleep(0.3)
        assert time.process_time() - before < 0.2


def test_sigterm_drains_then_ends_with_success(models: Path) -> None:
    with server_process(models, drain_s=3.0) as server, Stub(server.port) as stub:
        assert ready(stub)
        assert health(stub) == health_pb2.HealthCheckResponse.SERVING

        server.send(signal.SIGTERM)

        wait_until(lambda: not ready(stub))
        assert health(stub) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert health(stub, "linear") == health_pb2.HealthCheckResponse.NOT_SERVING
        assert_answered(stub, GOOD["linear"])
        with Stub(server.port) as late_comer:
            assert_answered(late_comer, GOOD["linear"])
        assert server.exit_code(within_s=30) == 0
        refusal = stub.refusal("ModelInfer", GOOD["linear"].request())
        assert refusal.code is Code.UNAVAILABLE


def test_calls_in_flight_at_sigterm_are_answered_and_later_ones_unavailable(models: Path) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        server_process(models, drain_s=0.1) as server,
        Stub(server.port) as stub,
        Stub(server.port) as other,
    ):
        assert ready(other)
        in_flight = pool.submit(stub.infer, slow_request(turns_for(stub, 1.5)))
        time.sleep(0.2)

        server.send(signal.SIGTERM)
        time.sleep(0.4)

        # Within the grace: the drain is over, the call in flight is not.
        assert not in_flight.done()
        assert other.refusal("ModelInfer", GOOD["linear"].request()).code is Code.UNAVAILABLE
        assert arrays(in_flight.result())["y"].tolist() == 1.0
        assert server.exit_code(within_s=30) == 0


def test_a_call_longer_than_the_grace_is_cut_off(models: Path) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        server_process(models, grace_s=0.3) as server,
        Stub(server.port) as stub,
    ):
        endless = pool.submit(stub.refusal, "ModelInfer", slow_request(FOREVER))
        time.sleep(0.2)

        server.send(signal.SIGTERM)

        assert endless.result().code in {Code.UNAVAILABLE, Code.CANCELLED}
        assert server.exit_code(within_s=30) == 0


def test_a_second_signal_cuts_the_drain_short(models: Path) -> None:
    with server_process(models, drain_s=60) as server, Stub(server.port) as stub:
        server.send(signal.SIGTERM)
        wait_until(lambda: not ready(stub))

        server.send(signal.SIGTERM)

        assert server.exit_code(within_s=30) == 0


def test_a_second_signal_cuts_the_grace_short(models: Path) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        server_process(models, grace_s=60) as server,
        Stub(server.port) as stub,
    ):
        endless = pool.submit(stub.refusal, "ModelInfer", slow_request(FOREVER))
        time.sleep(0.2)
        server.send(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None

        server.send(signal.SIGINT)

        server.exit_code(within_s=30)
        assert endless.result().code in {Code.UNAVAILABLE, Code.CANCELLED}


def test_sigint_ends_without_draining(models: Path) -> None:
    with server_process(models, drain_s=60) as server, Stub(server.port) as stub:
        assert_answered(stub, GOOD["linear"])

        server.send(signal.SIGINT)

        assert server.exit_code(within_s=30) == 0


def test_a_socket_in_the_file_system_is_served_and_removed(models: Path, tmp_path: Path) -> None:
    place = f"unix:{tmp_path / 'socket'}"
    for _ in range(2):
        with Server(Config(models=models, host=place)) as server, Stub(place) as stub:
            assert_answered(stub, GOOD["linear"])
            assert server.port == 0
            with pytest.raises(ListenError, match="socket"):
                Server(Config(models=models, host=place))
