import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest
from client.conftest import OipServer
from support.clients import AnyClient

from forwardpass.client import (
    CallCancelledError,
    ClientClosedError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    ServerError,
    ServerUnavailableError,
    UnimplementedError,
)
from forwardpass.client.errors import ERRORS
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorSpec


def abort(code, text="because"):
    return lambda _, context: context.abort(code, text)


def hang(*_):
    time.sleep(1)
    return b""


def raises(cause, text):
    return pytest.raises(cause, match=re.escape(text))


# Predictions


def test_a_batch_gives_every_output_by_name_in_the_model_order(client: AnyClient) -> None:
    prediction = client.predict("net", [[1, 1, 1], [1, 2, 3]])
    assert list(prediction) == ["y", "total"]
    assert prediction["y"].tolist() == [[5, 10], [13, 28]]
    assert prediction["total"].tolist() == [3, 6]
    assert (prediction.model, prediction.version) == ("net", "1")


def test_a_row_gives_outputs_without_the_row_axis(client: AnyClient) -> None:
    prediction = client.predict("net", np.array([1, 2, 3]))
    assert prediction["y"].tolist() == [13, 28]
    assert prediction["total"].shape == ()
    assert prediction["total"] == 6


def test_no_rows_give_outputs_without_rows(client: AnyClient) -> None:
    prediction = client.predict("net", np.zeros((0, 3)))
    assert prediction["y"].shape == (0, 2)


def test_a_dict_gives_several_inputs(client: AnyClient) -> None:
    prediction = client.predict("pair", {"b": ["x", b"y\0"], "a": [[1, 2], [3, 4]]})
    assert prediction["a"].tolist() == [[1, 2], [3, 4]]
    assert prediction["b"].tolist() == [b"x", b"y\0"]


def test_outputs_come_in_the_order_asked(client: AnyClient) -> None:
    assert list(client.predict("net", [1, 2, 3], outputs=["total", "y"])) == ["total", "y"]
    assert list(client.predict("net", [1, 2, 3], outputs=["total"])) == ["total"]


def test_typed_contents_are_understood(client: AnyClient, server: OipServer) -> None:
    server.models["net"].typed = True
    assert client.predict("net", [1, 2, 3])["y"].tolist() == [13, 28]


def test_replies_beyond_the_default_limit_of_grpc_pass(
    client: AnyClient, server: OipServer
) -> None:
    server.models["net"].run = lambda _: {
        "y": np.ones((2_000_000, 2), np.float32),
        "total": np.ones(1, np.float32),
    }
    assert client.predict("net", [[1, 2, 3]])["y"].nbytes == 16_000_000


def test_options_go_over_ours(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    options = [("grpc.max_receive_message_length", 1000)]
    with connect(server.target, options=options) as client, raises(OverloadedError, "1000"):
        client.predict("net", np.zeros((1000, 3)))


def timed(trailer):
    """Answer as the model does, with the server's part of the timing."""

    def install(server):
        def answer(request, context):
            asked = pb.ModelInferRequest.FromString(request)
            assert asked.parameters["forwardpass_timing"].bool_param
            context.set_trailing_metadata((("forwardpass-timing", trailer),))
            return server._model_infer(request, context)

        server.answers["ModelInfer"] = answer

    return install


def test_the_time_of_a_call_is_split_when_asked(client: AnyClient, server: OipServer) -> None:
    timed("decode=1.5,compute=2.0,encode=3.0")(server)
    start = time.perf_counter()
    timing = client.predict("net", [1, 2, 3], timing=True).timing
    whole_us = (time.perf_counter() - start) * 1e6
    assert timing is not None
    assert timing.compute_us == 2.0
    assert timing.queue_us == 4.5
    assert timing.client_us > 0
    assert timing.network_us > 0
    assert timing.client_us + timing.network_us + 6.5 < whole_us


def test_a_server_that_does_not_report_its_time_leaves_it_to_the_network(client: AnyClient) -> None:
    timing = client.predict("net", [1, 2, 3], timing=True).timing
    assert timing is not None
    assert (timing.queue_us, timing.compute_us) == (None, None)
    assert timing.network_us > 0


def test_a_timing_that_is_none_is_a_protocol_error(client: AnyClient, server: OipServer) -> None:
    timed("soon")(server)
    with raises(ProtocolError, "could not convert string to float"):
        client.predict("net", [1, 2, 3], timing=True)


def test_the_time_of_a_call_is_not_asked_for_unasked(client: AnyClient, server: OipServer) -> None:
    assert client.predict("net", [1, 2, 3]).timing is None
    assert b"timing" not in server.requests[0]


def test_a_wrong_input_is_not_sent(client: AnyClient, server: OipServer) -> None:
    with raises(InvalidInputError, f"{server.target}: model 'net', input 'x': expected shape"):
        client.predict("net", [1, 2, 3, 4])
    assert server.calls["ModelInfer"] == 0


def test_one_array_for_several_inputs_is_refused_with_their_names(client: AnyClient) -> None:
    with raises(InvalidInputError, "a dict of arrays for 2 inputs: a: FP64[-1, 2], b: BYTES[-1]"):
        client.predict("pair", [1, 2])


# Metadata


def test_metadata_report_signature_versions_and_properties(client: AnyClient) -> None:
    spec = client.metadata("net")
    assert spec.name == "net"
    assert spec.versions == ("1",)
    assert spec.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert spec.outputs == (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("total", "FP32", (-1,)))
    assert spec.properties == {"k": "v"}


def test_metadata_are_fetched_once_for_each_model_and_version(
    client: AnyClient, server: OipServer
) -> None:
    for _ in range(3):
        client.predict("net", [1, 2, 3])
    assert server.calls["ModelMetadata"] == 1
    client.predict("net", [1, 2, 3], version="1")
    client.predict("pair", {"a": [1, 2], "b": "x"})
    assert server.calls["ModelMetadata"] == 3


def test_metadata_that_are_asked_for_are_those_of_now(client: AnyClient, server: OipServer) -> None:
    before = client.metadata("net")
    assert client.metadata("net") == before
    server.models["net"].properties = {"k": "changed"}
    assert client.metadata("net").properties == {"k": "changed"}
    assert server.calls["ModelMetadata"] == 3


def test_threads_that_meet_a_model_at_once_fetch_its_metadata_once(
    client: AnyClient, server: OipServer
) -> None:
    barrier = threading.Barrier(8)

    def answer(request, context):
        time.sleep(0.05)
        return server._model_metadata(request, context)

    server.answers["ModelMetadata"] = answer

    def call(_):
        barrier.wait()
        return client.predict("net", [1, 2, 3])["total"]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(call, range(8))) == [6] * 8
    assert server.calls["ModelMetadata"] == 1


def test_a_new_version_with_other_inputs_is_noticed(client: AnyClient, server: OipServer) -> None:
    client.predict("net", [1, 2, 3])
    server.models["net"].inputs = {"x": ("FP32", (-1, 4))}
    server.models["net"].run = lambda arrays: {
        "y": arrays["x"][:, :2],
        "total": arrays["x"].sum(axis=1),
    }
    assert client.predict("net", [1, 2, 3, 4])["total"] == 10


def test_a_new_version_that_refuses_the_old_input_is_noticed(
    client: AnyClient, server: OipServer
) -> None:
    client.predict("net", [[1, 2, 3]])
    server.models["net"].inputs = {"features": ("FP32", (-1, 3))}
    server.models["net"].run = lambda arrays: {
        "y": arrays["features"][:, :2],
        "total": arrays["features"].sum(axis=1),
    }
    assert client.predict("net", [[1, 2, 3]])["total"].tolist() == [6]
    assert server.calls == {"ModelMetadata": 2, "ModelInfer": 3}


def test_a_new_version_with_other_outputs_is_noticed(client: AnyClient, server: OipServer) -> None:
    client.predict("net", [1, 2, 3])
    server.models["net"].outputs = {"z": ("FP32", (-1, 3))}
    server.models["net"].run = lambda arrays: {"z": arrays["x"]}
    assert client.predict("net", [1, 2, 3])["z"].tolist() == [1, 2, 3]


def test_metadata_that_are_as_before_leave_the_refusal(
    client: AnyClient, server: OipServer
) -> None:
    client.predict("net", [1, 2, 3])
    server.answers["ModelInfer"] = abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
    with raises(InvalidInputError, "model 'net': no"):
        client.predict("net", [1, 2, 3])
    assert server.calls == {"ModelMetadata": 2, "ModelInfer": 2}


def test_a_model_that_went_away_is_not_found(client: AnyClient, server: OipServer) -> None:
    client.predict("net", [1, 2, 3])
    del server.models["net"]
    with raises(ModelNotFoundError, "model 'net' not found"):
        client.predict("net", [1, 2, 3])


def test_a_server_that_does_not_know_a_signature_is_called_with_names(
    client: AnyClient, server: OipServer
) -> None:
    server.models["net"].outputs = {}
    run = server.models["net"].run
    server.answers["ModelMetadata"] = lambda *_: pb.ModelMetadataResponse(
        name="net"
    ).SerializeToString()
    with raises(InvalidInputError, "x: expected a dict of arrays, as the server does not report"):
        client.predict("net", np.ones((1, 3), np.float32))
    prediction = client.predict("net", {"x": np.ones((1, 3), np.float32)})
    assert dict(prediction).keys() == run({"x": np.ones((1, 3))}).keys()


# Health


def test_health_is_what_the_server_says(client: AnyClient, server: OipServer) -> None:
    assert client.live()
    assert client.ready()
    server.answers["ServerReady"] = lambda *_: pb.ServerReadyResponse().SerializeToString()
    assert not client.ready()


def test_a_model_is_ready_or_not_whichever_way_the_server_says_so(
    client: AnyClient, server: OipServer
) -> None:
    assert client.model_ready("net")
    assert not client.model_ready("other")
    server.answers["ModelReady"] = abort(grpc.StatusCode.NOT_FOUND)
    assert not client.model_ready("net")


def test_server_metadata(client: AnyClient) -> None:
    spec = client.server_metadata()
    assert (spec.name, spec.version, spec.extensions) == ("small", "0.1", ("binary_tensor_data",))


# Errors


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)
def test_a_status_code_of_the_server_is_its_exception(
    client: AnyClient, server: OipServer, code
) -> None:
    server.answers["ModelInfer"] = abort(code)
    with raises(ERRORS[code], f"{server.target}: model 'net': because") as caught:
        client.predict("net", [1, 2, 3])
    assert caught.value.code is code
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_an_unknown_model_is_not_found(client: AnyClient) -> None:
    with raises(ModelNotFoundError, "model 'other' not found"):
        client.predict("other", [1, 2, 3])


def test_a_crash_of_the_server_is_its_error(client: AnyClient, server: OipServer) -> None:
    server.answers["ModelInfer"] = lambda *_: bytes(1 // 0)
    with raises(ServerError, "model 'net'"):
        client.predict("net", [1, 2, 3])


def test_a_reply_that_is_none_is_a_protocol_error(client: AnyClient, server: OipServer) -> None:
    server.answers["ModelInfer"] = lambda *_: b"\xff"
    with raises(ProtocolError, "expected a ModelInferResponse, got 1 bytes that are not one"):
        client.predict("net", [1, 2, 3])


def test_a_grpc_server_of_another_kind_does_not_implement_it(
    connect: Callable[..., AnyClient],
) -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("localhost:0")
    other.start()
    with connect(f"localhost:{port}") as client, pytest.raises(UnimplementedError):
        client.predict("net", [1, 2, 3])
    other.stop(None).wait()


def test_nothing_at_the_target_is_unavailable(connect: Callable[..., AnyClient]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with connect(target) as client:
        with raises(ServerUnavailableError, "check that the server runs there") as caught:
            client.predict("net", [1, 2, 3])
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ConnectionError):
            client.ready()


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelInfer"])
def test_the_deadline_is_that_of_the_call_else_that_of_the_client(
    server: OipServer, method, connect: Callable[..., AnyClient]
) -> None:
    server.answers[method] = hang
    with connect(server.target, timeout_s=0.1) as client:
        start = time.monotonic()
        with pytest.raises(DeadlineExceededError) as caught:
            client.predict("net", [1, 2, 3])
        assert time.monotonic() - start < 0.8
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    with connect(server.target) as client, pytest.raises(TimeoutError):
        client.predict("net", [1, 2, 3], timeout_s=0.1)


def test_none_is_no_deadline(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    seen = []

    def answer(request, context):
        seen.append(context.time_remaining())
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    with connect(server.target, timeout_s=None) as client:
        client.predict("net", [1, 2, 3])
        client.predict("net", [1, 2, 3], timeout_s=5)
    with connect(server.target, timeout_s=7) as client:
        client.predict("net", [1, 2, 3], timeout_s=None)
        client.predict("net", [1, 2, 3])
    # Without a deadline grpcio says None, or a time beyond any.
    none, five, none_too, seven = (value or 1e9 for value in seen)
    assert none > 1e6
    assert none_too > 1e6
    assert 4 < five < 5.5
    assert 6 < seven < 7.5


@pytest.mark.parametrize("timeout_s", [1e9, 1e12, float("inf")])
def test_a_timeout_beyond_what_grpc_counts_is_no_timeout_that_has_passed(
    client: AnyClient, timeout_s
) -> None:
    assert client.predict("net", [1, 2, 3], timeout_s=timeout_s)["total"] == 6
    assert client.metadata("net").name == "net"


def test_a_limit_below_0_is_refused(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    with pytest.raises(ValueError, match="max_message_bytes: expected 0 or more, got -1; pass No"):
        connect(server.target, max_message_bytes=-1)


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("net", 1, "version: expected a text, got 1; pass a str"),
        (None, "", "model: expected a text, got None; pass a str"),
        ("\ud800", "", "model: expected a text that UTF-8 can hold"),
    ],
)
def test_a_name_that_no_message_holds_is_refused_unsent(
    client: AnyClient, server: OipServer, model, version, message
) -> None:
    for call in (client.metadata, client.model_ready, client.statistics):
        with raises(InvalidInputError, message):
            call(model, version)
    with raises(InvalidInputError, message):
        client.predict(model, [1, 2, 3], version=version)
    assert not server.calls


def test_the_metadata_count_towards_the_deadline(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    def slow(answer):
        def answer_late(request, context):
            time.sleep(0.2)
            return answer(request, context)

        return answer_late

    server.answers["ModelMetadata"] = slow(server._model_metadata)
    server.answers["ModelInfer"] = slow(server._model_infer)
    with connect(server.target) as client, pytest.raises(DeadlineExceededError):
        client.predict("net", [1, 2, 3], timeout_s=0.3)


def test_waiting_for_the_metadata_of_another_thread_ends_at_the_deadline(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    def slow(request, context):
        time.sleep(0.5)
        return server._model_metadata(request, context)

    server.answers["ModelMetadata"] = slow
    with connect(server.target) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.metadata, "net")
        while not server.calls["ModelMetadata"]:
            time.sleep(0.001)
        with raises(DeadlineExceededError, "no metadata yet"):
            client.predict("net", [1, 2, 3], timeout_s=0.1)
        assert first.result().name == "net"


# Life


def test_threads_that_share_a_client_get_their_own_answers(client: AnyClient) -> None:
    def calls(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            x = rng.integers(0, 1000, (rng.integers(1, 9), 3))
            np.testing.assert_array_equal(client.predict("net", x)["total"], x.sum(axis=1))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(calls, range(16)))


def test_a_closed_client_says_so(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    with connect(server.target) as client:
        client.predict("net", [1, 2, 3])
    assert repr(client).endswith(f" of {server.target} (closed)>")
    client.close()
    for call in (
        lambda: client.predict("net", [1, 2, 3]),
        lambda: client.metadata("net"),
        client.live,
    ):
        with raises(ClientClosedError, f"{server.target}: this client was closed"):
            call()


def test_closing_ends_the_calls_in_flight(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    server.answers["ModelInfer"] = hang
    client = connect(server.target)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.predict, "net", [1, 2, 3])
        while not server.calls["ModelInfer"]:
            time.sleep(0.001)
        client.close()
        with pytest.raises(CallCancelledError):
            call.result()


def test_a_forked_process_has_to_make_its_own_client(server: OipServer) -> None:
    program = f"""
import os
from forwardpass.client import Client, ClientClosedError
client = Client("{server.target}")
client.predict("net", [1, 2, 3])
if os.fork() == 0:
    try:
        client.predict("net", [1, 2, 3])
    except ClientClosedError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, timeout=20, text=True
    )
    assert "from which this one was forked; make a client in each process" in done.stdout


def test_a_forked_process_ends_with_a_client_whose_calls_are_in_flight(server: OipServer) -> None:
    held = threading.Event()
    server.answers["ModelInfer"] = lambda request, context: (
        held.wait(60),
        server._model_infer(request, context),
    )[1]
    program = f"""
import os, sys, threading
from forwardpass.client import Client, ClientClosedError
client = Client("{server.target}")
client.metadata("net")
stream = client.predict_stream("net", [[1, 2, 3]] * 3, in_flight=8)
answers = []
caller = threading.Thread(target=lambda: answers.extend(stream))
caller.start()
sys.stdin.readline()
child = os.fork()
if child == 0:
    client.close()
    try:
        client.live()
    except ClientClosedError as error:
        print("child:", error, flush=True)
    sys.exit(7)
_, status = os.waitpid(child, 0)
print("exit:", os.waitstatus_to_exitcode(status), flush=True)
sys.stdin.readline()
caller.join()
print("totals:", [float(each["total"]) for each in answers])
client.close()
"""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # The forked one, too: as long as it hangs, so would reading what it says.
        watch = threading.Timer(30, os.killpg, [process.pid, signal.SIGKILL])
        watch.start()
        try:
            while server.calls["ModelInfer"] < 3 and process.poll() is None:
                time.sleep(0.01)
            process.stdin.write("fork\n")
            process.stdin.flush()
            assert "this client was closed" in process.stdout.readline()
            assert process.stdout.readline() == "exit: 7\n"
            held.set()
            rest, _ = process.communicate("go on\n")
            assert rest == "totals: [6.0, 6.0, 6.0]\n"
        finally:
            held.set()
            watch.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_client_made_in_a_forked_process_works(server: OipServer) -> None:
    program = f"""
import os
from forwardpass.client import Client
if os.fork() == 0:
    with Client("{server.target}") as client:
        print(client.predict("net", [1, 2, 3])["total"], flush=True)
    os._exit(0)
_, status = os.wait()
with Client("{server.target}") as client:
    print(status, client.predict("net", [1, 2, 3])["total"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, text=True
    )
    assert done.stdout.split() == ["6.0", "0", "6.0"], done.stderr


def test_a_server_that_comes_back_is_used_again(server: OipServer, client: AnyClient) -> None:
    client.predict("net", [1, 2, 3])
    server.answers["ModelInfer"] = abort(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(ServerUnavailableError):
        client.predict("net", [1, 2, 3])
    del server.answers["ModelInfer"]
    assert client.predict("net", [1, 2, 3])["total"] == 6


# Arguments


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("localhost", "expected HOST:PORT, got 'localhost'; add the port, as in 'localhost:8001'"),
        ("8001", "expected HOST:PORT, got '8001'; add the host, as in 'localhost:8001'"),
        ("", "expected HOST:PORT, got ''; add the port, as in 'localhost:8001'"),
        ("http://a:1", "expected HOST:PORT, got 'http://a:1'; write 'a:1'"),
        ("https://a:1", "write 'a:1', with tls=True"),
        (8001, "expected HOST:PORT as text, got 8001"),
    ],
)
def test_a_target_that_is_none_is_refused(target, text, connect: Callable[..., AnyClient]) -> None:
    with raises(ValueError, text):
        connect(target)


def test_a_port_that_does_not_speak_grpc_is_named(connect: Callable[..., AnyClient]) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        threading.Thread(target=http.handle_request).start()
        with (
            connect(f"127.0.0.1:{http.server_port}", timeout_s=30, retry=None) as client,
            pytest.raises(ServerUnavailableError, match="that port does not speak gRPC"),
        ):
            client.predict("net", [1, 2, 3])


def test_files_without_tls_are_refused(connect: Callable[..., AnyClient]) -> None:
    with raises(ValueError, "ca_file: expected with tls=True, got tls=False; pass tls=True"):
        connect("localhost:1", ca_file="ca.pem")


def test_a_certificate_without_its_key_is_refused(connect: Callable[..., AnyClient]) -> None:
    with raises(ValueError, "cert_file and key_file: expected both or neither"):
        connect("localhost:1", tls=True, cert_file="client.pem")


def test_a_file_that_is_not_there_is_named(connect: Callable[..., AnyClient]) -> None:
    with raises(FileNotFoundError, "nowhere.pem"):
        connect("localhost:1", tls=True, ca_file="nowhere.pem")
