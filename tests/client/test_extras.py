"""What travels beside a call: tokens, compression, traces, interceptors, pings."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable

import grpc
import grpc.aio
import numpy as np
import pytest
from client.conftest import OipServer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from support.certificates import write_self_signed
from support.clients import AnyClient
from support.proxy import Proxy

from forwardpass.client import (
    AsyncClient,
    Client,
    ClientClosedError,
    ClientError,
    UnauthenticatedError,
)
from forwardpass.client._grpc.channel import _is_loopback


@pytest.fixture
def received(server):
    """Metadata of each ModelInfer."""
    seen = []

    def answer(request, context):
        seen.append(dict(context.invocation_metadata()))
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    return seen


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(make_server, certificate):
    """A server with TLS that wants a token, and its certificate's file."""
    oip = make_server()

    def answer(request, context):
        authorization = dict(context.invocation_metadata()).get("authorization", "")
        if not authorization.startswith("Bearer good"):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return oip._model_infer(request, context)

    oip.answers["ModelInfer"] = answer
    file, key = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), file.read_bytes())])
    running = oip.start(credentials)
    yield oip.target, file
    running.stop(None).wait()


# Tokens


def test_a_token_goes_with_each_call_over_tls(secure, connect: Callable[..., AnyClient]) -> None:
    target, ca_file = secure
    with connect(target, tls=True, ca_file=ca_file, token="good") as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6
        stream = client.predict_stream("net", [[1, 2, 3]] * 3)
        assert [p["total"] for p in stream] == [6, 6, 6]


@pytest.mark.parametrize("token", [None, "bad"])
def test_no_token_and_a_wrong_one_are_unauthenticated(
    secure, connect: Callable[..., AnyClient], token
) -> None:
    target, ca_file = secure
    with connect(target, tls=True, ca_file=ca_file, token=token) as client:
        with pytest.raises(UnauthenticatedError, match="who are you"):
            client.predict("net", [1, 2, 3])


def test_a_function_is_asked_for_the_token_that_is_valid_now(
    secure, connect: Callable[..., AnyClient]
) -> None:
    target, ca_file = secure
    tokens = iter(["good 1", "good 2", "good 3", "bad"])
    with connect(target, tls=True, ca_file=ca_file, token=lambda: next(tokens)) as client:
        # The first is for the metadata.
        client.predict("net", [1, 2, 3])
        client.predict("net", [1, 2, 3])
        with pytest.raises(UnauthenticatedError):
            client.predict("net", [1, 2, 3])


def test_a_token_is_not_sent_in_plain_text(connect: Callable[..., AnyClient]) -> None:
    text = "token: expected with tls=True, got plain text to '127.0.0.1:1', where whoever listens"
    with pytest.raises(ValueError, match=re.escape(text)):
        connect("127.0.0.1:1", token="secret")
    with pytest.raises(ValueError, match=r"plain text to 'models\.example:1'") as caught:
        connect("models.example:1", token="secret", plaintext_token=True)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="got a function; pass tls=True"):
        connect("127.0.0.1:1", token=lambda: "secret", plaintext_token=True)


@pytest.mark.parametrize("token", ["secret\n", "s\0cret", "s\u00e9cret"])
@pytest.mark.parametrize("settings", [{"tls": True}, {"plaintext_token": True}])
def test_a_token_that_grpc_would_not_send_is_refused_untold(
    server: OipServer, connect: Callable[..., AnyClient], settings, token
) -> None:
    with pytest.raises(ValueError, match="token: expected printable ASCII, got ") as caught:
        connect(server.target, token=token, **settings)
    assert "cret" not in str(caught.value)


class TokenServiceAwayError(Exception):
    """What a caller's own function may raise."""


def test_a_function_that_fails_is_not_a_server_that_is_away(
    secure, connect: Callable[..., AnyClient]
) -> None:
    target, ca_file = secure
    asked = []

    def token():
        asked.append(1)
        raise TokenServiceAwayError("no route")

    with (
        connect(target, tls=True, ca_file=ca_file, token=token) as client,
        pytest.raises(UnauthenticatedError) as caught,
    ):
        client.live()
    assert (
        "token: expected one from the function, got TokenServiceAwayError('no route')"
        in caught.value.details
    )
    assert len(asked) == 1


def test_a_function_that_returns_no_text_is_reported(
    secure, connect: Callable[..., AnyClient]
) -> None:
    target, ca_file = secure
    with (
        connect(target, tls=True, ca_file=ca_file, token=lambda: b"secret") as client,
        pytest.raises(
            UnauthenticatedError, match="expected a str from the function, got bytes"
        ) as caught,
    ):
        client.live()
    assert "secret" not in str(caught.value)


def test_a_function_whose_token_grpc_would_not_send_is_reported_without_the_secret(
    secure, connect: Callable[..., AnyClient]
) -> None:
    target, ca_file = secure
    with connect(target, tls=True, ca_file=ca_file, token=lambda: "secret\n", retry=None) as client:
        with pytest.raises(ClientError, match="token: expected printable ASCII") as caught:
            client.predict("net", [1, 2, 3])
    assert "secret" not in str(caught.value)


def test_a_token_may_be_sent_in_plain_text_to_this_machine_if_that_is_said(
    server: OipServer, connect: Callable[..., AnyClient], received
) -> None:
    target = f"127.0.0.1:{server.port}"
    with connect(server.target, token="abc", plaintext_token=True) as client:
        client.predict("net", [1, 2, 3])
    assert received[0]["authorization"] == "Bearer abc", target


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("unix:/run/x.sock", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv6:[::1]:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("localhost.example:1", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("[fe80::1]:1", False),
        ("dns://10.0.0.1/localhost:1", False),
        ("xds:///localhost:1", False),
    ],
)
def test_what_stays_on_this_machine_is_reported_by_the_target(target, local) -> None:
    assert _is_loopback(target) == local


# OpenTelemetry


def traceparent(ids):
    """As the W3C writes it."""
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"


def test_the_context_of_a_span_goes_along(
    server: OipServer, connect: Callable[..., AnyClient], received
) -> None:
    tracer = TracerProvider().get_tracer("tests")
    with Client(server.target) as client:
        client.predict("net", [1, 2, 3])
        with tracer.start_as_current_span("caller") as span:
            client.predict("net", [1, 2, 3])
            list(client.predict_stream("net", [[1, 2, 3]]))
    ids = span.get_span_context()
    assert "traceparent" not in received[0]
    assert [each["traceparent"] for each in received[1:]] == [traceparent(ids)] * 2
    assert trace.get_current_span().get_span_context().trace_id == 0


async def in_an_event_loop(server, tracer):
    async with AsyncClient(server.target) as client:
        with tracer.start_as_current_span("caller") as span:
            await client.predict("net", [1, 2, 3])
    return span.get_span_context()


def test_the_context_of_a_task_goes_along(server: OipServer, received) -> None:
    ids = asyncio.run(in_an_event_loop(server, TracerProvider().get_tracer("tests")))
    assert received[0]["traceparent"] == traceparent(ids)


# The channel


def test_gzip_compresses_requests(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    x = np.zeros((10_000, 3))
    asked = {}
    for gzip in (True, False):
        with Proxy(server.port) as proxy, connect(proxy.target, gzip=gzip) as client:
            assert client.predict("net", x)["total"].shape == (10_000,)
        asked[gzip] = proxy.asked_bytes
    assert asked[False] > 120_000
    assert asked[True] < 12_000


class Counting(grpc.UnaryUnaryClientInterceptor):
    def __init__(self):
        self.methods = []

    def intercept_unary_unary(self, continuation, details, request):
        assert isinstance(request, bytes)
        self.methods.append(details.method.rpartition("/")[2])
        return continuation(details, request)


class AsyncCounting(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self):
        self.methods = []

    async def intercept_unary_unary(self, continuation, details, request):
        method = details.method
        method = method.decode() if isinstance(method, bytes) else method
        self.methods.append(method.rpartition("/")[2])
        return await continuation(details, request)


def test_interceptors_see_each_call(
    request: pytest.FixtureRequest, server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    blocks = request.node.callspec.params["connect"] == "Client"
    seen = Counting() if blocks else AsyncCounting()
    with connect(server.target, interceptors=[seen]) as client:
        client.predict("net", [1, 2, 3])
        assert client.predict("net", [1, 2, 3], timing=True).timing is not None
        list(client.predict_stream("net", [[1, 2, 3]]))
    assert seen.methods == ["ModelMetadata", "ModelInfer", "ModelInfer", "ModelInfer"]


def test_keepalive_is_a_time(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    with connect(server.target, keepalive_s=400) as client:
        assert client.live()
    with pytest.raises(ValueError, match="keepalive_s: expected more than 0, or None"):
        connect(server.target, keepalive_s=0)


# Event loops and processes


def test_a_client_of_one_event_loop_says_so_in_another(server: OipServer) -> None:
    client = AsyncClient(server.target)

    async def call():
        return (await client.predict("net", [1, 2, 3]))["total"]

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(call()) == 6
        with pytest.raises(ClientClosedError, match="make one in each loop"):
            second.run(call())
        assert first.run(call()) == 6
        first.run(client.close())


def test_an_asyncio_client_in_a_forked_process_says_so(server: OipServer) -> None:
    program = f"""
import asyncio, os
from forwardpass.client import AsyncClient, ClientClosedError

async def call(client):
    await client.predict("net", [1, 2, 3])

client = AsyncClient("{server.target}")
with asyncio.Runner() as runner:
    runner.run(call(client))
    if os.fork() == 0:
        try:
            asyncio.Runner().run(call(client))
        except ClientClosedError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
    runner.run(client.close())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, timeout=20, text=True
    )
    assert "make a client in each process" in done.stdout, done.stderr


def test_a_task_that_is_cancelled_ends_its_call_alone(server: OipServer) -> None:
    release = threading.Event()
    server.answers["ModelInfer"] = lambda request, context: (
        release.wait(10),
        server._model_infer(request, context),
    )[1]

    async def main():
        async with AsyncClient(server.target) as client:
            await client.metadata("net")
            calls = [asyncio.create_task(client.predict("net", [1, 2, 3])) for _ in range(2)]
            while server.calls["ModelInfer"] < 2:
                await asyncio.sleep(0.01)
            calls[0].cancel()
            release.set()
            return await asyncio.gather(*calls, return_exceptions=True)

    cancelled, answered = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert answered["total"] == 6
