"""What goes wrong beside calls is in the log, in its format, and in the metrics."""

import json
import os
import re
import resource
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Identity
from support.command import COMMAND, run, serving
from support.rpc import Stub
from support.versions import ask, put
from support.waiting import eventually

from forwardpass.server.config import Transport
from forwardpass.server.process.incidents import LINES_PER_S, Incident, Incidents
from forwardpass.server.transport.grpcio.lines import counted


@dataclass(frozen=True)
class Watched:
    """A server whose log is JSON."""

    pid: int
    port: int
    log: Path
    authority: Identity

    def lines(self) -> list[dict[str, Any]]:
        # Any line that is not JSON fails the test; the last one may not be whole yet.
        lines = self.log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines]

    def messages(self, text: str) -> list[str]:
        return [line["message"] for line in self.lines() if text in line["message"]]

    def metric(self, name: str) -> float:
        (line,) = self.messages("metrics on port")
        port = re.findall(r"\d+", line)[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
            (value,) = re.findall(rf"^forwardpass_{name} (.*)$", reply.read().decode(), re.M)
        return float(value)


def started(folder: Path, transport: Transport, *options: str | Path) -> Any:
    put(folder / "models", "m", 1, 1)
    fixed = ["--port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-s", "0"]
    return serving(
        *(folder / "models", *fixed, "--transport", transport, *options), log=folder / "log"
    )


@pytest.fixture
def plain(tmp_path: Path, transport: Transport) -> Iterator[Watched]:
    with started(tmp_path, transport) as server:
        port = int(server.target.rsplit(":")[1])
        yield Watched(server.process.pid, port, tmp_path / "log", Identity.make("nobody"))


@pytest.fixture
def secured(tmp_path: Path, transport: Transport) -> Iterator[Watched]:
    authority = Identity.make("authority")
    cert, key = Identity.make("server", authority).write(tmp_path)
    with started(tmp_path, transport, "--tls-cert", cert, "--tls-key", key) as server:
        port = int(server.target.rsplit(":")[1])
        yield Watched(server.process.pid, port, tmp_path / "log", authority)


def failed(server: Watched) -> list[str]:
    """The lines about handshakes, ours or those of grpcio's library."""
    return server.messages("TLS handshake with") or server.messages("Handshake failed with")


def test_running_out_of_files_is_logged_and_counted_and_passes(plain: Watched) -> None:
    with Stub(plain.port) as stub, ExitStack() as stack:
        assert ask(stub, "m") == (1, 1)
        limits = resource.prlimit(plain.pid, resource.RLIMIT_NOFILE)
        opened = len(os.listdir(f"/proc/{plain.pid}/fd"))
        resource.prlimit(plain.pid, resource.RLIMIT_NOFILE, (opened + 3, limits[1]))
        for _ in range(8):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", plain.port))))
        too_many = r"cannot be accepted: Too many open files|File descriptor limit reached"
        eventually(lambda: re.search(too_many, plain.log.read_text()) is not None)
        # Whoever is connected goes on.
        assert ask(stub, "m") == (1, 1)
        resource.prlimit(plain.pid, resource.RLIMIT_NOFILE, limits)

    with Stub(plain.port) as late:
        assert ask(late, "m") == (1, 1)
    assert plain.metric("accept_errors_total") >= 1


def test_a_tls_handshake_that_fails_is_logged_and_counted(secured: Watched) -> None:
    trusting = ssl.create_default_context(cadata=secured.authority.chain_pem.decode())
    distrusting = ssl.create_default_context()
    before = secured.metric("tls_handshake_errors_total")
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        # Until the server closes.
        connection.recv(100)
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as connection:
        with pytest.raises(ssl.SSLError):
            distrusting.wrap_socket(connection, server_hostname="127.0.0.1")
    # What looks whether somebody listens, as probes of Kubernetes do, is no handshake.
    socket.create_connection(("127.0.0.1", secured.port)).close()
    trusting.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as connection:
        trusting.wrap_socket(connection, server_hostname="127.0.0.1").close()

    eventually(lambda: secured.metric("tls_handshake_errors_total") == before + 2)
    eventually(lambda: len(failed(secured)) == 2)
    assert "HTTP_REQUEST" in failed(secured)[0]
    credentials = grpc.ssl_channel_credentials(secured.authority.chain_pem)
    with Stub(f"localhost:{secured.port}", credentials) as stub:
        assert ask(stub, "m") == (1, 1)


def test_a_flood_of_failures_leaves_the_log_legible(secured: Watched) -> None:
    count, began = 10 * LINES_PER_S, time.monotonic()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            connection.recv(100)

    eventually(lambda: secured.metric("tls_handshake_errors_total") == count)
    eventually(lambda: len(failed(secured)) >= LINES_PER_S)
    assert len(failed(secured)) <= LINES_PER_S * (2 + time.monotonic() - began)


def test_a_line_says_how_many_before_it_were_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("forwardpass.server.process.incidents.monotonic", lambda: now[0])
    incidents = Incidents()
    line = "E1130 10:28:22.1 7 listener.cc:1] File descriptor limit reached. Retrying."

    logged = [counted(line, incidents) for _ in range(LINES_PER_S + 3)]
    now[0] = 1.0
    logged.append(counted(line, incidents))

    assert logged[:LINES_PER_S] == [line] * LINES_PER_S
    assert logged[LINES_PER_S:] == [None] * 3 + [f"{line} (3 more before it were not logged)"]
    assert incidents.total(Incident.ACCEPT) == LINES_PER_S + 4
    assert counted("something else", incidents) == "something else"


def test_every_line_of_a_log_as_json_is_json_whoever_writes_it(tmp_path: Path) -> None:
    options = ["--transport", "grpcio", "--log-format", "json", "--port", "0", "--drain-s", "0"]
    put(tmp_path, "m", 1, 1)
    log = tmp_path / "log"
    # Then the library in C++ warns as it is imported.
    env = {"GRPC_VERBOSITY": "INFO"}
    with serving(tmp_path, *options, log=log, env=env, program=COMMAND) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (warning,) = [line for line in lines if line["logger"] == "stderr"]
    assert warning["level"] == "WARNING"
    assert "not suitable for production" in warning["message"]
    assert lines[-1]["message"].startswith("stopped after")


def test_the_error_that_ends_a_server_is_json_too(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")

    done = run("serve", tmp_path, "--port", "0", "--log-format", "json")

    assert done.code == 1
    lines = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert lines[-1].startswith("error: ")
    assert "no model loaded" in lines[-1]
