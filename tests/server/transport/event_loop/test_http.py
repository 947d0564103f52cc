"""HTTP/1.1 on the event loop: connections that go on, requests in a row, hostile ones."""

import gzip
import http.client
import random
import select
import socket
import ssl
import struct
import time
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import onnx_files, rest
from support.certificates import Identity
from support.rest import Rest, written
from support.rpc import Stub
from support.versions import put
from support.waiting import eventually
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.host_names import HostNames
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.rpc.rest.infer_replies import InferReplies
from forwardpass.server.rpc.rest.infer_requests import InferRequests
from forwardpass.server.transport.event_loop import http_connection

LIVE = "/v2/health/live"
INFER = "/v2/models/m/infer"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
START = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n"
MAX_BYTES = 2**18


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("http")
    put(root, "m", 1, 1)
    config = Config(
        models=root,
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        max_message_bytes=MAX_BYTES,
        model_control=True,
    )
    with Server(config) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Rest]:
    with Rest(server.http_port) as client:
        yield client


def assert_serves(server: Server) -> None:
    with Rest(server.http_port) as client:
        assert client.post(INFER, BODY).status == 200


def test_a_connection_goes_on(client: Rest) -> None:
    for _ in range(3):
        assert client.get(LIVE).json == {"live": True}
        assert client.post(INFER, BODY).status == 200
        assert client.get("/v2/nothing").status == 404


def test_a_connection_ends_where_the_client_says_so(server: Server) -> None:
    with Rest(server.http_port) as client:
        answer = client.call("GET", LIVE, fields={"Connection": "close"})
        assert answer.fields["connection"] == "close"
        assert client.closed()
    with Rest(server.http_port) as client:
        client.socket.sendall(f"GET {LIVE} HTTP/1.0\r\n\r\n".encode())
        assert client.answer("GET").status == 200
        assert client.closed()


def test_the_head_of_an_answer_is_that_of_the_whole(client: Rest) -> None:
    whole = client.get("/v2/models/m")
    head = client.call("HEAD", "/v2/models/m")
    assert head.status == 200
    assert head.body == b""
    assert head.fields["content-length"] == str(len(whole.body))
    assert client.call("HEAD", "/v2/models/nobody").status == 404


def test_requests_in_a_row_are_answered_in_order(client: Rest) -> None:
    paths = [LIVE, INFER, "/v2/models/nobody", "/v2/models/m/stats", INFER, "/nothing", LIVE] * 20
    data = b""
    for index, path in enumerate(paths):
        body = BODY | {"id": str(index)} if path == INFER else None
        data += written("POST" if body else "GET", path, body)
    client.socket.sendall(data)
    expected = {LIVE: 200, INFER: 200, "/v2/models/m/stats": 200}
    for index, path in enumerate(paths):
        answer = client.answer("POST" if path == INFER else "GET")
        assert answer.status == expected.get(path, 404)
        if path == INFER:
            assert answer.json["id"] == str(index)


def test_calls_in_a_row_run_together(server: Server, client: Rest) -> None:
    def runs() -> int:
        (found,) = client.get("/v2/models/m/stats").json["model_stats"]
        return int(found["execution_count"])

    assert client.post(INFER, BODY).status == 200
    before = runs()
    client.socket.sendall(written("POST", INFER, BODY) * 100)
    assert all(client.answer().status == 200 for _ in range(100))
    assert runs() - before < 100


def test_what_follows_a_change_waits_for_it(client: Rest) -> None:
    unload, load = (f"/v2/repository/models/m/{what}" for what in ("unload", "load"))
    client.socket.sendall(
        written("POST", INFER, BODY)
        + written("POST", unload)
        + written("POST", INFER, BODY)
        + written("POST", load)
        + written("POST", INFER, BODY)
    )
    assert [client.answer().status for _ in range(5)] == [200, 200, 404, 200, 200]


def test_bodies_come_in_chunks_and_in_bytes(client: Rest) -> None:
    body = written("POST", INFER, BODY).partition(b"\r\n\r\n")[2]
    head = f"{START}Transfer-Encoding: chunked\r\n\r\n".encode()
    chunks = [b"%x;a=b\r\n%b\r\n" % (1, body[at : at + 1]) for at in range(len(body))]
    whole = head + b"".join(chunks) + b"0\r\nTrailer: 1\r\n\r\n"
    client.socket.sendall(whole * 2)
    assert client.answer().status == client.answer().status == 200
    for byte in whole:
        client.socket.sendall(bytes([byte]))
    assert client.answer().status == 200


def test_a_client_that_waits_for_100_continue_gets_it(client: Rest) -> None:
    whole = written("POST", INFER, BODY, {"Expect": "100-continue"})
    head, separator, body = whole.partition(b"\r\n\r\n")
    client.socket.sendall(written("GET", LIVE) + head + separator)
    assert client.answer("GET").status == 200
    client.wait_for(b"100 Continue\r\n\r\n")
    client.socket.sendall(body)
    answer = client.answer()
    assert answer.status == 200
    assert answer.informed == [100]
    # Refused before the body is sent.
    client.socket.sendall(
        f"{START}Expect: 100-continue\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n".encode()
    )
    refused = client.answer()
    assert refused.status == 413
    assert not refused.informed
    assert client.closed()


def test_other_expectations_are_refused(client: Rest) -> None:
    assert client.call("GET", LIVE, fields={"Expect": "miracles"}).status == 417


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(client: Rest, encoding: str) -> None:
    packs: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress}
    unpacks: dict[str, Any] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
    pack, unpack = packs[encoding], unpacks[encoding]
    for rows in (1, 4_000):
        entry = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [1] * (2 * rows)}
        body = written("POST", INFER, {"inputs": [entry]}).partition(b"\r\n\r\n")[2]
        fields = {"Content-Encoding": encoding, "Accept-Encoding": f"{encoding};q=0.5, br"}
        answer = client.call("POST", INFER, pack(body), fields)
        assert answer.status == 200
        packed = rows > 1
        assert answer.fields.get("content-encoding") == (encoding if packed else None)
        text = unpack(answer.body) if packed else answer.body
        assert text == client.call("POST", INFER, body).body
    none = client.call("POST", INFER, body, {"Accept-Encoding": f"{encoding};q=0"})
    assert "content-encoding" not in none.fields


def test_compressed_bodies_are_bounded(client: Rest) -> None:
    bomb = gzip.compress(b" " * (MAX_BYTES + 1))
    answer = client.call("POST", INFER, bomb, {"Content-Encoding": "gzip"})
    assert answer.status == 413
    assert f"above the server's limit of {MAX_BYTES}" in answer.error
    bad = client.call("POST", INFER, b"no gzip", {"Content-Encoding": "gzip"})
    assert bad.status == 400
    assert "not valid gzip" in bad.error
    assert client.call("POST", INFER, b"", {"Content-Encoding": "br"}).status == 415


def test_large_bodies_and_answers(client: Rest) -> None:
    rows = 6_000
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    request = infer_request("m", {"x": x})
    for binary in (True, False):
        body, fields = rest.infer_body(request, binary=binary, binary_outputs=binary)
        assert len(body) > 2**15
        answer = client.call("POST", INFER, body, fields)
        assert len(rest.arrays(answer)["y"]) == rows


def test_messages_are_bounded_as_over_grpc(server: Server, client: Rest) -> None:
    size = MAX_BYTES + 1
    head = f"{START}Content-Length: {size}\r\n\r\n".encode()
    client.socket.sendall(head)
    answer = client.answer()
    assert answer.status == 413
    with Stub(server.port) as stub:
        refusal = stub.refusal("ModelInfer", pb.ModelInferRequest(id="x" * size))
    assert answer.error.partition("bytes")[2] == refusal.message.partition("bytes")[2]
    assert client.closed()
    with Rest(server.http_port) as other:
        # Whose size is not known before.
        chunk = b"8000\r\n" + b" " * 2**15 + b"\r\n"
        head = f"{START}Transfer-Encoding: chunked\r\n\r\n".encode()
        other.socket.sendall(head + chunk * 9)
        assert other.answer().status == 413
    names = b'{"parameters":{"a":"' + b"x" * 2**16 + b'"}}'
    with Rest(server.http_port) as other:
        assert other.post("/v2/repository/models/m/load", names).status == 413
    assert_serves(server)


def test_a_refused_body_that_is_short_is_dropped(client: Rest) -> None:
    assert client.post("/v2/nothing", b"x" * 1000).status == 404
    assert client.get(LIVE).status == 200


HOSTILE: dict[str, tuple[bytes, int]] = {
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "equal lengths": (b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a list of lengths": (b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "a signed length": (b"Content-Length: +2\r\n\r\n{}", 400),
    "a hexadecimal length": (b"Content-Length: 0x2\r\n\r\n{}", 400),
    "a negative length": (b"Content-Length: -2\r\n\r\n{}", 400),
    "a length of 2^64": (b"Content-Length: 18446744073709551616\r\n\r\n{}", 400),
    "length and chunked": (
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    "chunked and length": (
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    "chunked twice": (
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "not chunked at last": (b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "another coding": (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a coding with a tab": (b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "space before the colon": (b"Content-Length : 2\r\n\r\n{}", 400),
    "a folded line": (b"A: b\r\n Content-Length: 2\r\n\r\n{}", 400),
    "bare line feeds": (b"A: b\nContent-Length: 2\n\n{}", 400),
    "a bare carriage return": (b"A: b\rContent-Length: 2\r\n\r\n{}", 400),
    "NUL": (b"A: b\0\r\n\r\n", 400),
    "no colon": (b"A\r\n\r\n", 400),
    "two hosts": (b"Host: y\r\n\r\n", 400),
    "two sizes of JSON": (
        b"Inference-Header-Content-Length: 2\r\nInference-Header-Content-Length: 1\r\n"
        b"Content-Length: 2\r\n\r\n{}",
        400,
    ),
    "a chunk's size that is none": (b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    "a chunk's size of 2^64": (b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", 400),
    "a chunk that goes on": (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n", 400),
    "a long field": (b"A: " + b"x" * 2**15 + b"\r\n\r\n", 431),
    "many fields": (b"A: x\r\n" * 1000 + b"\r\n", 431),
    "an endless field": (b"A: " + b"x" * 2**19, 431),
    "an endless extension": (
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * (2**21 + 2**19),
        400,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_two_readers_may_read_differently_is_refused(
    server: Server, client: Rest, case: str
) -> None:
    rest_of, status = HOSTILE[case]
    smuggled = written("GET", LIVE)
    start = START.encode()
    with_suffix = start + rest_of + smuggled
    try:
        client.socket.sendall(with_suffix)
    except (BrokenPipeError, ConnectionResetError):
        assert case.startswith("an endless")
    answer = client.answer()
    assert answer.status == status, answer.body
    assert answer.error
    assert answer.fields["connection"] == "close"
    assert client.closed()
    assert_serves(server)


LINES: dict[str, tuple[bytes, int]] = {
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 505),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
    "no request": (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "chunks of HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_first_lines_that_are_none_are_refused(server: Server, case: str) -> None:
    data, status = LINES[case]
    with Rest(server.http_port) as client:
        client.socket.sendall(data)
        assert client.answer("GET").status == status
        assert client.closed()
    assert_serves(server)


def test_answers_before_a_fault_are_sent(client: Rest) -> None:
    client.socket.sendall(written("POST", INFER, BODY) * 3 + b"nonsense\r\n\r\n")
    assert [client.answer().status for _ in range(4)] == [200, 200, 200, 400]
    assert client.closed()


def test_a_wish_for_another_protocol_is_ignored(client: Rest) -> None:
    fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AA"}
    client.socket.sendall(written("GET", LIVE, None, fields) + written("GET", LIVE))
    assert client.answer("GET").status == client.answer("GET").status == 200
    # llhttp would take the body for a request.
    body = written("GET", LIVE)
    assert client.call("POST", INFER, body, fields).status == 501
    assert client.closed()


def test_wishes_for_another_protocol_in_a_row_are_ignored(client: Rest) -> None:
    wish = f"GET {LIVE} HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n"
    # More than Python calls within calls.
    client.socket.sendall(wish.encode() * 2000)
    for _ in range(2000):
        assert client.answer("GET").status == 200


def test_an_error_of_ours_ends_one_call_alone(
    server: Server, client: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = InferRequests.read

    def fails(self: Any, model: str, version: str, body: Any, size: Any = None) -> Any:
        if b"broken" in bytes(body):
            raise RuntimeError("broken")
        return read(self, model, version, body, size)

    monkeypatch.setattr(InferRequests, "read", fails)
    client.socket.sendall(
        written("POST", INFER, BODY)
        + written("POST", INFER, BODY | {"id": "broken"})
        + written("POST", INFER, BODY)
    )
    assert [client.answer().status for _ in range(3)] == [200, 500, 200]
    write = InferReplies.write

    def writes(self: Any, model: str, message: bytes, wanted: Any) -> Any:
        if b"broken" in message:
            raise RuntimeError("broken")
        return write(self, model, message, wanted)

    monkeypatch.setattr(InferRequests, "read", read)
    monkeypatch.setattr(InferReplies, "write", writes)
    with Rest(server.http_port) as other:
        client.send("POST", INFER, BODY | {"id": "broken"})
        assert other.post(INFER, BODY).status == 200
    assert client.answer().status == 500
    assert client.post(INFER, BODY).status == 200


def test_the_last_answer_is_whole_however_slowly_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "_LINGER_S", 0.1)
    onnx_files.save(onnx_files.identity("FP32", ["a", "b"]), tmp_path / "m" / "1" / "model.onnx")
    config = Config(models=tmp_path, port=0, http_port=0, transport=Transport.ASYNCIO)
    # More than the system's buffers hold.
    request = infer_request("m", {"x": np.ones((1, 2**22), np.float32)})
    body, fields = rest.infer_body(request, binary=True, binary_outputs=True)
    with Server(config) as server, Rest(server.http_port) as client:
        state: Any = server._transport.state  # type: ignore[union-attr]
        client.send("POST", INFER, body, {**fields, "Connection": "close"})
        eventually(lambda: any(each._lingers_until for each in state.connections))
        (connection,) = state.connections
        eventually(lambda: connection.unanswered)
        # The server looks every second.
        time.sleep(2.5)
        assert len(client.answer().body) > 2**24
        assert client.closed()


def test_the_body_of_a_refused_request_may_come_slowly_but_not_for_ever(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, 1)
    config = Config(
        models=tmp_path, port=0, http_port=0, transport=Transport.ASYNCIO, max_receive_s=4.0
    )
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    with Server(config) as server, Rest(server.http_port) as client:
        client.socket.sendall(head + b"ab")
        assert client.answer().status == 404
        # The server looks every second.
        time.sleep(2)
        client.socket.sendall(b"cd" + written("GET", LIVE) + head + b"ab")
        assert client.answer("GET").status == 200
        assert client.answer().status == 404
        assert client.closed()


def test_half_of_a_connection_is_answered(client: Rest) -> None:
    client.send("POST", INFER, BODY)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.answer().status == 200
    assert client.closed()


def test_slow_heads_and_bodies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        max_receive_s=0.2,
    )
    with Server(config) as server:
        head, _, _ = written("POST", INFER, BODY).partition(b"\r\n\r\n")
        with Rest(server.http_port) as client:
            client.socket.sendall(head + b"\r\n\r\n{")
            answer = client.answer()
            assert answer.status == 408
            assert answer.error == "the request arrives too slowly"
            assert client.closed()
        with Rest(server.http_port) as client:
            state: Any = server._transport.state  # type: ignore[union-attr]
            client.socket.sendall(head)
            eventually(lambda: [each for each in state.connections if each._reader.in_head])
            (connection,) = [each for each in state.connections if each._reader.in_head]
            # As if it had begun a minute ago.
            connection._head_since -= 60
            answer = client.answer()
            assert answer.status == 408
            assert answer.error == "the head is not complete after 10 s"
            assert client.closed()
        monkeypatch.setattr(http_connection, "_IDLE_S", 0.2)
        with Rest(server.http_port) as client:
            assert client.get(LIVE).status == 200
            assert client.closed()


def test_old_connections_end_with_an_answer(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        max_connection_age_s=0.1,
        grace_s=60.0,
    )
    with Server(config) as server, Rest(server.http_port) as client:

        def ends() -> bool:
            answer = client.get(LIVE)
            assert answer.status == 200
            return answer.fields.get("connection") == "close"

        eventually(ends)
        assert client.closed()


def test_connections_are_limited_with_those_of_grpc(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        max_connections=2,
    )
    with Server(config) as server, Stub(server.port) as stub, Rest(server.http_port) as client:
        stub.infer(infer_request("m", {"x": np.zeros((1, 2), np.float32)}))
        assert client.get(LIVE).status == 200
        with Rest(server.http_port) as other:
            assert other.closed()


def test_memory_is_counted_with_that_of_grpc(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        max_message_bytes=2**20,
        max_request_memory=2**20,
    )
    with Server(config) as server:
        state = server._transport.state  # type: ignore[union-attr]
        clients = [Rest(server.http_port) for _ in range(3)]
        head = f"{START}Content-Length: {2**20}\r\n\r\n".encode()
        for each in clients:
            each.socket.sendall(head + b" " * (2**19 - 2**12))
        sockets = {each.socket: each for each in clients}
        refused, _, _ = select.select(sockets, (), (), rest.TIMEOUT_S)
        answer = sockets[refused[0]].answer()
        assert answer.status == 429
        assert "--max-request-memory" in answer.error
        assert int(answer.fields["retry-after"]) >= 1
        for each in clients:
            each.socket.close()
        eventually(lambda: not state.connections)
        assert state.memory.used == 0


def test_nothing_is_left_of_calls_whose_client_leaves(server: Server) -> None:
    state = server._transport.state  # type: ignore[union-attr]
    for data in (
        written("POST", INFER, BODY) * 50,
        written("POST", INFER, BODY)[:-1],
        written("POST", INFER, BODY)[:40],
        written("POST", "/v2/repository/models/m/load") + written("POST", INFER, BODY),
    ):
        with Rest(server.http_port) as client:
            client.socket.sendall(data)
    eventually(lambda: not state.connections)
    assert state.memory.used == 0
    assert state.waiting == 0
    assert not state.busy


TOKEN = new_token("caller", ["m"], [Action.INFER])


def test_callers_are_known_by_their_tokens(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN.line)
    tokens.chmod(0o600)
    config = Config(
        models=tmp_path / "models", port=0, http_port=0, transport=Transport.ASYNCIO, tokens=tokens
    )
    with Server(config) as server, Rest(server.http_port) as client, Stub(server.port) as stub:
        assert client.get(LIVE).status == 200
        request = infer_request("m", {"x": np.zeros((1, 2), np.float32)})
        known = {"Authorization": f"Bearer {TOKEN.token}"}
        for _ in range(2):
            unknown = client.post(INFER, BODY)
            assert unknown.status == 401
            assert unknown.fields["www-authenticate"] == "Bearer"
            assert unknown.error == stub.refusal("ModelInfer", request).message
            assert client.call("POST", INFER, BODY, known).status == 200
        forbidden = client.call("GET", "/v2/models/m", fields=known)
        assert forbidden.status == 403
        metadata = [("authorization", f"Bearer {TOKEN.token}")]
        refusal = stub.refusal(
            "ModelMetadata", pb.ModelMetadataRequest(name="m"), metadata=metadata
        )
        assert forbidden.error == refusal.message
        twice = b"Authorization: a\r\nAuthorization: b\r\n"
        client.socket.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + twice + b"\r\n")
        assert client.answer("GET").status == 400


LIMITED = new_token("limited", ["m"], [Action.INFER], calls_per_s=0.001, max_in_flight=2)


def test_quotas_are_those_of_grpc(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    tokens = tmp_path / "tokens"
    tokens.write_text(LIMITED.line)
    tokens.chmod(0o600)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        tokens=tokens,
        metrics_port=0,
    )
    may = {"Authorization": f"Bearer {LIMITED.token}"}
    with Server(config) as server:
        caller = server._front._access.caller(may["Authorization"])
        quota = caller.quota
        assert quota is not None
        with Rest(server.http_port) as client, Stub(server.port) as stub:
            assert client.call("POST", INFER, BODY, may).status == 200
            refused = client.call("POST", INFER, BODY, may)
            assert refused.status == 429
            assert int(refused.fields["retry-after"]) > 100
            request = infer_request("m", {"x": np.zeros((1, 2), np.float32)})
            metadata = [("authorization", may["Authorization"])]
            wanted = stub.refusal("ModelInfer", request, metadata=metadata).message
            assert refused.error == wanted
            assert client.post(INFER, BODY).status == 401
        eventually(lambda: quota.in_flight == 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
        refusals = 'forwardpass_calls_total{code="RESOURCE_EXHAUSTED",model="",version=""} '
        assert refusals + "2.0" in lines
        assert 'forwardpass_calls_total{code="UNAUTHENTICATED",model="",version=""} 1.0' in lines


def test_calls_that_never_began_leave_their_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "models", "m", 1, 1)
    token = new_token("caller", ["m"], [Action.INFER], max_in_flight=3)
    tokens = tmp_path / "tokens"
    tokens.write_text(token.line)
    tokens.chmod(0o600)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        tokens=tokens,
    )
    may = {"Authorization": f"Bearer {token.token}"}
    # As if another call, that has to end alone, took for ever.
    monkeypatch.setattr(http_connection.HttpConnection, "_start", lambda _: None)
    with Server(config) as server:
        quota = server._front._access.caller(may["Authorization"]).quota
        assert quota is not None
        with Rest(server.http_port) as client:
            client.socket.sendall(written("POST", INFER, BODY, may) * 3)
            eventually(lambda: quota.in_flight == 3)
            # Closed at once, and not half.
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: quota.in_flight == 0)


def test_bytes_may_come_in_any_parts(client: Rest) -> None:
    rng = random.Random(1)
    for _ in range(10):
        data, expected = b"", []
        for _ in range(30):
            body = BODY | {"id": "x" * rng.randrange(50)}
            path, status = rng.choice(((INFER, 200), ("/v2/models/n/infer", 404)))
            whole = written("POST", path, body)
            if rng.random() < 0.3:
                head, _, content = whole.partition(b"\r\n\r\n")
                head = head.partition(b"\r\nContent-Length")[0]
                cut = rng.randrange(1, len(content))
                chunks = (content[:cut], content[cut:], b"")
                whole = head + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
                whole += b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
            data += rng.choice((b"", b"\r\n")) + whole
            expected.append(status)
        position = 0
        while position < len(data):
            size = rng.choice((1, 10, 100, 1000, 5000))
            client.socket.sendall(data[position : position + size])
            position += size
        assert [client.answer().status for _ in expected] == expected


def test_tls(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    authority = Identity.make("authority")
    cert, key = Identity.make("localhost", authority).write(tmp_path)
    ca, _ = authority.write(tmp_path)
    config = Config(
        models=tmp_path / "models",
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        tls_cert=cert,
        tls_key=key,
    )
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["http/1.1"])
    with Server(config) as server:
        for alpn in (["http/1.1"], ["h2", "http/1.1"], None):
            if alpn is None:
                context = ssl.create_default_context(cafile=ca)
            else:
                context.set_alpn_protocols(alpn)
            with Rest(server.http_port, context) as client:
                assert client.get(LIVE).status == 200
                assert client.post(INFER, BODY).status == 200
                client.socket.sendall(b"nonsense\r\n\r\n")
                assert client.answer().status == 400


def test_ids_come_back(client: Rest) -> None:
    fields = {"X-Request-Id": "call-1"}
    assert client.call("POST", INFER, BODY, fields).fields["x-request-id"] == "call-1"
    assert client.call("GET", LIVE, None, fields).fields["x-request-id"] == "call-1"
    assert client.call("GET", "/v2/models/n", None, fields).fields["x-request-id"] == "call-1"
    assert "x-request-id" not in client.post(INFER, BODY).fields


def test_times_are_answered_where_they_are_asked_for(client: Rest) -> None:
    answer = client.post(INFER, BODY | {"parameters": {"forwardpass_timing": True}})
    assert "compute=" in answer.fields["forwardpass-timing"]


def test_the_standard_library_reads_it(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port or 0, timeout=20)
    for _ in range(2):
        connection.request("GET", LIVE)
        with connection.getresponse() as answer:
            assert answer.read() == b'{"live":true}'
    connection.close()


def test_a_server_that_stops_answers_what_has_come(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    with Server(
        Config(models=tmp_path / "models", port=0, http_port=0, transport=Transport.ASYNCIO)
    ) as server:
        with Rest(server.http_port) as idle, Rest(server.http_port) as client:
            assert idle.get(LIVE).status == client.get(LIVE).status == 200
            server.stop(grace_s=5.0)
            assert idle.closed()
            assert client.closed()


def test_a_server_that_drains_answers_and_asks_for_another_connection(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(models=tmp_path / "models", port=0, http_port=0, transport=Transport.ASYNCIO)
    with Server(config) as server, Rest(server.http_port) as client:
        assert "connection" not in client.post(INFER, BODY).fields
        server.drain()
        answer = client.post(INFER, BODY)
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        assert client.closed()
        with Rest(server.http_port) as client:
            answer = client.get("/v2/health/ready")
            assert (answer.status, answer.fields["connection"]) == (503, "close")
            assert client.closed()


def test_a_page_whose_name_leads_here_is_refused(client: Rest) -> None:
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.x", ""):
        for method, path, body in (("GET", LIVE, None), ("POST", INFER, BODY)):
            answer = client.call(method, path, body, {"Host": host})
            assert answer.status == 421
            assert f"got '{host}'" in answer.error
            assert "--http-host-names" in answer.error
    for host in ("127.0.0.1", "10.0.0.7:8000", "[::1]:8000", "LocalHost:1", "ui.localhost."):
        assert client.call("GET", LIVE, None, {"Host": host}).status == 200
    # What a proxy gets names the server in the first line, which counts.
    assert client.call("GET", f"http://evil.example{LIVE}").status == 421
    assert client.call("GET", f"http://[::1]:80{LIVE}", None, {"Host": "x"}).status == 200


@pytest.mark.parametrize(
    ("host", "names", "taken"),
    [
        ("127.0.0.1", "", set()),
        ("127.0.0.1", "ward.example", {"Ward.example:8000"}),
        ("localhost", "ward.example, server", {"Ward.example:8000", "server"}),
        ("0.0.0.0", "", {"Ward.example:8000", "server", "evil.example"}),
        ("0.0.0.0", "WARD.example", {"Ward.example:8000"}),
    ],
)
def test_names_are_checked_on_loopback_and_where_they_are_given(
    tmp_path: Path, host: str, names: str, taken: set[str]
) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(
        models=tmp_path / "models",
        host=host,
        port=0,
        http_port=0,
        http_host_names=HostNames.parse(names),
        transport=Transport.ASYNCIO,
    )
    sent = ("Ward.example:8000", "server", "evil.example")
    with Server(config) as server, Rest(server.http_port) as client:
        assert client.get(LIVE).status == 200
        for each in sent:
            status = client.call("GET", LIVE, None, {"Host": each}).status
            assert status == (200 if each in taken else 421)


def test_unix_sockets_have_no_http_port(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="http_port: expected none"):
        Config(models=tmp_path, http_port=0, host="unix:/tmp/x")


def test_http_is_served_beside_grpcio_too(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    config = Config(models=tmp_path / "models", port=0, http_port=0, transport=Transport.GRPCIO)
    with Server(config) as server, Rest(server.http_port) as client, Stub(server.port) as stub:
        assert client.post(INFER, BODY).status == 200
        stub.infer(infer_request("m", {"x": np.zeros((1, 2), np.float32)}))
        (found,) = client.get("/v2/models/m/stats").json["model_stats"]
        assert found["inference_stats"]["success"]["count"] == 2
        load = server._transport.load()
        assert load.connections == 2
        server.stop(grace_s=1.0)
        assert client.closed()


def test_a_port_that_is_taken_is_named(server: Server, tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    with pytest.raises(Exception, match=f"cannot listen on 127.0.0.1:{server.http_port}"):
        Server(
            Config(
                models=tmp_path / "models",
                port=0,
                http_port=server.http_port,
                transport=Transport.ASYNCIO,
            )
        )
