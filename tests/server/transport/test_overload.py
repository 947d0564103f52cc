"""More calls than the server can answer, and callers that want more than their share."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support import onnx_files
from support.certificates import Identity
from support.http2 import DATA, END_STREAM, frame
from support.http2 import request as http2_request
from support.idle import until_idle
from support.prepared import Prepared
from support.raw import Raw, end_of, linear
from support.rpc import Stub
from support.wire import infer_request

from forwardpass.client import Client, Retry
from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits

pytestmark = pytest.mark.usefixtures("transport", "shared_trial")

Metadata = Sequence[tuple[str, str]]
ROW = {"x": np.ones((1, 3), np.float32)}
BATCH = ("forwardpass-priority", "batch")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow.onnx")
    yield root
    until_idle()


def config(models: Path, **settings: Any) -> Config:
    return Config(models=models, port=0, metrics_port=0, limits=Limits(general=True), **settings)


def slow(turns: int, priority: int | None = None) -> pb.ModelInferRequest:
    """Ask for some tenths of a millisecond a turn."""
    request = infer_request("slow", {"turns": np.array(turns)})
    if priority is not None:
        request.parameters["priority"].uint64_param = priority
    return request


def send(stub: Stub, request: pb.ModelInferRequest, metadata: Metadata = ()) -> Any:
    """Send a call and return it at once."""
    method = stub.method("ModelInfer", pb.ModelInferResponse)
    return method.future(request, timeout=60, metadata=tuple(metadata))


def outcome(stub: Stub, request: pb.ModelInferRequest, metadata: Metadata) -> grpc.StatusCode:
    try:
        stub.infer(request, metadata=metadata)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def shed(server: Server) -> Mapping[str, int]:
    """Return how many calls were shed for each reason, without those of which there are none."""
    return {
        sample.labels["reason"]: int(sample.value)
        for sample in scrape(server)
        if sample.name == "forwardpass_shed_calls_total" and sample.value
    }


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def figure(server: Server, name: str) -> float:
    (value,) = (s.value for s in scrape(server) if s.name == f"forwardpass_{name}")
    return float(value)


def in_flight(server: Server) -> float:
    return figure(server, "calls_in_flight")


def scrape(server: Server) -> list[Sample]:
    assert server.metrics_port is not None
    return samples(server.metrics_port)


def samples(port: int) -> list[Sample]:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as page:
        families = text_string_to_metric_families(page.read().decode())
        return [sample for family in families for sample in family.samples]


# Runs


def test_a_run_ends_with_its_callers_deadline_or_its_caller(models: Path) -> None:
    with Server(config(models)) as server, Stub(server.port) as stub:
        # Each would have a runner for minutes.
        endless = [slow(10**6) for _ in range(6)]
        method = stub.method("ModelInfer", pb.ModelInferResponse)
        late = [method.future(request, timeout=0.5) for request in endless[:3]]
        for call in late:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        left = [send(stub, request) for request in endless[3:]]
        until(lambda: in_flight(server) >= 3)
        for call in left:
            call.cancel()
        assert stub.infer(slow(1)).outputs
        until(lambda: in_flight(server) == 0)


# A bounded backlog


def test_what_has_no_room_is_shed_with_the_time_to_come_back(models: Path) -> None:
    with Server(config(models, workers=1, max_backlog=4, max_queue=4)) as server:
        with Stub(server.port) as stub:
            calls = [send(stub, slow(300)) for _ in range(40)]
            refused = [call for call in calls if call.exception(60) is not None]
            assert refused
            for call in refused:
                assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                trailers = dict(call.trailing_metadata())
                pushback_ms = int(trailers["grpc-retry-pushback-ms"])
                assert 50 <= pushback_ms <= 5000
                (detail,) = rpc_status.from_call(call).details
                info = error_details_pb2.RetryInfo()
                assert detail.Unpack(info)
                delay: duration_pb2.Duration = info.retry_delay
                assert delay.ToMilliseconds() == pushback_ms
            # Each is counted once.
            assert sum(shed(server).values()) == len(refused)
            assert shed(server).keys() <= {"backlog", "queue"}
            assert len(refused) < len(calls)
        until(lambda: in_flight(server) == 0)


def test_our_client_comes_back_until_there_is_room(models: Path) -> None:
    settings = config(models, workers=1, max_backlog=1, max_queue=1)
    patient = Retry(attempts=100, first_s=0.001, max_s=0.002, budget=10_000)
    with Server(settings) as server, ThreadPoolExecutor(8) as threads:
        with Client(f"127.0.0.1:{server.port}", retry=patient) as client:
            client.predict("slow", {"turns": np.array(1)})

            def call(_: int) -> float:
                return float(client.predict("slow", {"turns": np.array(100)})["y"])

            assert list(threads.map(call, range(24))) == [1.0] * 24
        assert shed(server)


def test_a_call_that_is_shed_is_refused_before_its_message_is_whole(models: Path) -> None:
    settings = config(models, workers=1, max_backlog=1, transport=Transport.GRPCIO)
    with Server(settings) as server, Stub(server.port) as stub:
        busy = [send(stub, slow(5000))]
        # A thread has it.
        until(lambda: in_flight(server) == 1 and figure(server, "waiting_calls") == 0)
        busy.append(send(stub, slow(1)))
        until(lambda: figure(server, "waiting_calls") == 1)
        over = threading.Event()

        def never_ends() -> Iterator[bytes]:
            over.wait(30)
            yield from ()

        method: Any = stub.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            method(never_ends(), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        over.set()
        for call in busy:
            call.cancel()


def test_probes_are_answered_while_calls_wait(models: Path) -> None:
    with Server(config(models, workers=2)) as server, Stub(server.port) as stub:
        calls = [send(stub, slow(5000)) for _ in range(30)]
        until(lambda: in_flight(server) >= 30)
        health: Any = health_pb2_grpc.HealthStub(stub.channel)
        for _ in range(3):
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert stub.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
        # They have not waited for a thread.
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()


def test_a_call_that_is_given_up_leaves_nothing_behind(models: Path) -> None:
    with Server(config(models, workers=2)) as server, Stub(server.port) as stub:
        calls = [send(stub, slow(500)) for _ in range(20)]
        until(lambda: in_flight(server) >= 10)
        for call in calls:
            call.cancel()
        until(lambda: in_flight(server) == 0)
        assert figure(server, "waiting_calls") == 0
        assert figure(server, "oldest_wait_seconds") == 0


# Shares


@pytest.fixture
def tokens(tmp_path: Path) -> Callable[..., Metadata]:
    """Return a function that adds a token to the file `tokens`, and returns its metadata."""
    file = tmp_path / "tokens"
    file.touch()

    def add(name: str, **limits: Any) -> Metadata:
        made = new_token(name, ["*"], list(Action), **limits)
        with file.open("a") as lines:
            lines.write(made.line + "\n")
        return (("authorization", f"Bearer {made.token}"),)

    return add


def test_a_caller_has_as_many_calls_in_flight_as_its_line_says(
    models: Path, tmp_path: Path, tokens: Callable[..., Metadata]
) -> None:
    greedy, other = tokens("greedy", max_in_flight=2), tokens("other")
    with Server(config(models, tokens=tmp_path / "tokens")) as server, Stub(server.port) as stub:
        calls = [send(stub, slow(10**6), greedy) for _ in range(12)]
        until(lambda: sum(call.done() for call in calls) == 10)
        for call in calls:
            call.cancel()
        outcomes = Counter(call.code() for call in calls)
        assert outcomes == {grpc.StatusCode.CANCELLED: 2, grpc.StatusCode.RESOURCE_EXHAUSTED: 10}
        assert shed(server) == {"share": 10}
        (refused, *_) = (
            call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        assert "'greedy' has 2 calls in flight, its limit" in refused.details()
        assert "grpc-retry-pushback-ms" in dict(refused.trailing_metadata())
        # Then again, however the calls before ended; a run that has begun ends by itself.
        for _ in range(5):
            stub.refusal("ModelInfer", infer_request("nothing", ROW), metadata=greedy)
            stub.refusal("ModelInfer", b"no message", metadata=greedy)
            send(stub, slow(50), greedy).cancel()
            request = infer_request("linear", ROW)
            until(lambda: outcome(stub, request, greedy) is grpc.StatusCode.OK)  # noqa: B023
        assert stub.infer(infer_request("linear", ROW), metadata=other)


def test_a_caller_makes_as_many_calls_a_second_as_its_line_says(
    models: Path, tmp_path: Path, tokens: Callable[..., Metadata]
) -> None:
    slowly, other = tokens("slowly", calls_per_s=0.02), tokens("other")
    request = infer_request("linear", ROW)
    with Server(config(models, tokens=tmp_path / "tokens")) as server, Stub(server.port) as stub:
        assert stub.infer(request, metadata=slowly)
        with pytest.raises(grpc.RpcError) as caught:
            stub.infer(request, metadata=slowly)
        error: Any = caught.value
        assert "more than 0.02 calls a second" in error.details()
        # When there is a call again: 50 s after the first.
        pushback_ms = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
        assert 30_000 < pushback_ms <= 50_000
        assert shed(server) == {"rate": 1}
        for _ in range(20):
            assert stub.infer(request, metadata=other)
        # Metadata are calls, too.
        answer = stub.refusal(
            "ModelMetadata", pb.ModelMetadataRequest(name="linear"), metadata=slowly
        )
        assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert shed(server) == {"rate": 2}


def test_limits_are_on_the_calls_of_a_stream_which_goes_on(
    models: Path, tmp_path: Path, tokens: Callable[..., Metadata]
) -> None:
    slowly = tokens("slowly", calls_per_s=3, max_in_flight=100)
    request = infer_request("linear", ROW)
    with Server(config(models, tokens=tmp_path / "tokens")) as server, Stub(server.port) as stub:
        answers = list(stub.stream([request] * 10, metadata=slowly))
        texts = [answer.error_message for answer in answers]
        assert len(texts) == 10
        # The bucket holds three, and is filled while the stream goes on.
        assert texts[:3] == ["", "", ""]
        refused = [text for text in texts if text]
        assert refused
        assert all("more than 3 calls a second" in text for text in refused)
        assert shed(server) == {"rate": len(refused)}


def test_a_changed_file_does_not_give_a_caller_its_share_anew(
    models: Path, tmp_path: Path, tokens: Callable[..., Metadata]
) -> None:
    slowly = tokens("slowly", calls_per_s=0.02)
    request = infer_request("linear", ROW)
    with Server(config(models, tokens=tmp_path / "tokens")) as server, Stub(server.port) as stub:
        assert stub.infer(request, metadata=slowly)
        other = tokens("other")
        until(lambda: outcome(stub, request, other) is grpc.StatusCode.OK)
        assert outcome(stub, request, slowly) is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Other limits begin anew.
        lines = [json.loads(line) for line in (tmp_path / "tokens").read_text().splitlines()]
        lines[0]["calls_per_s"] = 1000
        (tmp_path / "tokens").write_text("\n".join(map(json.dumps, lines)))
        until(lambda: outcome(stub, request, slowly) is grpc.StatusCode.OK)


# Classes


@pytest.mark.parametrize("how", ["metadata", "parameter", "token"])
def test_interactive_calls_overtake_batch_calls_that_came_before(
    models: Path, tmp_path: Path, tokens: Callable[..., Metadata], how: str
) -> None:
    """Whatever the machine's speed: which of the calls that wait begin first is not its matter."""
    interactive, batch = tokens("interactive"), tokens("batch", priority="batch")
    file = tmp_path / "tokens" if how == "token" else None
    metadata = {"metadata": (BATCH,), "parameter": (), "token": batch}[how]
    priority = 2 if how == "parameter" else None
    ended: list[str] = []
    with Server(config(models, tokens=file, workers=64)) as server, Stub(server.port) as stub:
        busy = [send(stub, slow(10**6), interactive if file else ()) for _ in range(4)]
        until(lambda: in_flight(server) == 4)
        later = []
        for _ in range(12):
            later.append(send(stub, slow(20, priority), metadata))
            later[-1].add_done_callback(lambda _: ended.append("batch"))
        until(lambda: in_flight(server) == 16)
        for _ in range(6):
            later.append(send(stub, slow(20, 1), interactive if file else ()))
            later[-1].add_done_callback(lambda _: ended.append("interactive"))
        until(lambda: in_flight(server) == 22)
        for call in busy:
            call.cancel()
        for call in later:
            assert call.exception(60) is None
        until(lambda: len(ended) == 18)
    # Two may run at a time, and callbacks come in threads: the order is known but for those.
    first = ended[:8]
    assert first.count("interactive") >= 5, ended


def test_batch_calls_leave_threads_to_interactive_ones(models: Path) -> None:
    """With as many batch calls as there are threads an interactive call of another model begins."""
    with Server(config(models, workers=4)) as server, Stub(server.port) as stub:
        batch = [send(stub, slow(2000), (BATCH,)) for _ in range(16)]
        until(lambda: in_flight(server) == 16)
        assert stub.infer(infer_request("linear", ROW))
        assert not all(call.done() for call in batch)
        for call in batch:
            call.cancel()


def test_batch_calls_are_not_put_off_for_ever(models: Path) -> None:
    """While interactive calls never end, batch calls are answered, too."""
    with Server(config(models, workers=4)) as server, Stub(server.port) as stub:
        over = threading.Event()

        def interactive(_: int) -> None:
            while not over.is_set():
                stub.infer(slow(20))

        with ThreadPoolExecutor(12) as threads:
            callers = [threads.submit(interactive, index) for index in range(12)]
            until(lambda: in_flight(server) >= 8)
            try:
                for _ in range(5):
                    assert stub.infer(slow(20), metadata=(BATCH,))
            finally:
                over.set()
            for caller in callers:
                caller.result(30)


# Thousands of calls at once


def test_thousands_of_calls_in_flight_are_answered_or_shed_and_counted_once(
    models: Path, transport: Transport
) -> None:
    """Also those that grpcio has not passed on yet: above a thousand, it would cancel some."""
    command: list[Any] = [
        sys.executable,
        "-m",
        "forwardpass.cli",
        "serve",
        models,
        "--general-models",
    ]
    command += ["--port", "0", "--drain-s", "0", "--transport", transport, "--max-backlog", "500"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command += ["--metrics-port", port]
    codes: Counter[grpc.StatusCode] = Counter()
    with Prepared(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            target = next(line for line in process.stdout if "ready on" in line).split()[-1]
            own = [("grpc.use_local_subchannel_pool", 1)]
            with ExitStack() as stack:
                infers: list[Any] = [
                    stack.enter_context(grpc.insecure_channel(target, own)).unary_unary(
                        "/inference.GRPCInferenceService/ModelInfer"
                    )
                    for _ in range(3)
                ]
                message = slow(1).SerializeToString()
                calls = [infer.future(message, timeout=60) for _ in range(1000) for infer in infers]
                for call in calls:
                    codes[call.code()] += 1
            counted = {
                sample.labels["reason"]: sample.value
                for sample in samples(port)
                if sample.name == "forwardpass_shed_calls_total"
            }
        finally:
            process.terminate()
    refused = codes.pop(grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
    assert codes == {grpc.StatusCode.OK: 3000 - refused}
    assert sum(counted.values()) == refused


# Time counts from the first byte


def test_the_wait_before_a_call_begins_is_in_its_time(models: Path) -> None:
    """The times of all calls, together, are those that their callers saw, but for the network."""
    with Server(config(models, workers=1)) as server, Stub(server.port) as stub:
        stub.infer(slow(1))
        before = seconds(server, "slow", "total"), seconds(server, "slow", "queue")
        started = time.monotonic()
        ended: list[float] = []
        calls = [send(stub, slow(200)) for _ in range(8)]
        for call in calls:
            call.add_done_callback(lambda _: ended.append(time.monotonic() - started))
        for call in calls:
            assert call.exception(60) is None
        until(lambda: len(ended) == 8)
        total = seconds(server, "slow", "total") - before[0]
        queue = seconds(server, "slow", "queue") - before[1]
    # One after the other, or two at a time: most of the time is the wait for the others.
    assert 0.5 * sum(ended) < total <= sum(ended)
    assert queue > 0.4 * total


def test_the_time_until_a_request_is_whole_has_a_phase_of_its_own(models: Path) -> None:
    with Server(config(models)) as server:
        with closing(Raw(server)) as raw:
            raw.send(http2_request(1, None))
            time.sleep(0.5)
            raw.send(frame(DATA, END_STREAM, 1, linear()))
            raw.read_until(end_of(1))
        assert seconds(server, "linear", "receive") >= 0.1
        assert seconds(server, "linear", "total") >= seconds(server, "linear", "receive")


def seconds(server: Server, model: str, phase: str) -> float:
    """Return the time of a model's calls in a phase."""
    (value,) = (
        sample.value
        for sample in scrape(server)
        if sample.name == "forwardpass_call_seconds_sum"
        and sample.labels["model"] == model
        and sample.labels["phase"] == phase
    )
    return float(value)


def test_a_caller_with_a_certificate_has_its_limits_too(models: Path, tmp_path: Path) -> None:
    authority = Identity.make("authority")
    ca = authority.write(tmp_path, "ca")[0]
    cert, key = Identity.make("server", authority).write(tmp_path, "server")
    ours = Identity.make("job", authority, names=[x509.DNSName("job.example.org")])
    line = {"name": "job", "certificate": "job.example.org", "models": ["*"], "calls": ["infer"]}
    (tmp_path / "tokens").write_text(json.dumps(line | {"calls_per_s": 0.02}))
    settings = config(
        models,
        tokens=tmp_path / "tokens",
        tls_cert=cert,
        tls_key=key,
        tls_client_ca=ca,
    )
    credentials = grpc.ssl_channel_credentials(authority.chain_pem, ours.key_pem, ours.chain_pem)
    request = infer_request("linear", ROW)
    with Server(settings) as server:
        with Stub(f"localhost:{server.port}", credentials) as stub:
            assert outcome(stub, request, ()) is grpc.StatusCode.OK
            assert outcome(stub, request, ()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert shed(server) == {"rate": 1}
