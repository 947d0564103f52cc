"""`forwardpass health` against real servers."""

import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.certificates import write_self_signed
from support.command import Serving, run, run_here, serving


def test_a_server_that_serves_ends_with_0_and_says_nothing(server: Serving) -> None:
    done = run("health", server.target)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_the_target_is_taken_from_the_variable_that_predict_takes(server: Serving) -> None:
    assert run_here("health", env={"FORWARDPASS_TARGET": server.target}).code == 0


COMMANDS = (("health",), ("status",), ("predict", "adder", "--input", "x.csv"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_target_is_spelled_alike_for_every_command(
    server: Serving, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert run_here(*command, "--target", server.target, cwd=tmp_path).code == 0
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        elsewhere = f"127.0.0.1:{bound.getsockname()[1]}"
        env = {"FORWARDPASS_TARGET": elsewhere}
        assert run_here(*command, "--target", server.target, env=env, cwd=tmp_path).code == 0
        if command[0] == "predict":
            return
        # As an argument, too, which is used in place of the variable.
        assert run_here(*command, server.target, env=env).code == 0
        assert run_here(*command, server.target, "--target", server.target).code == 0
        done = run_here(*command, server.target, "--target", elsewhere)
        assert done.code == 2
        assert done.error == (
            f"--target: expected one target, got {server.target} and {elsewhere}; leave one out"
        )


def test_without_a_target_the_server_of_this_machine_is_asked_at_its_own_setting(
    server: Serving,
) -> None:
    port = server.target.split(":")[1]
    assert run_here("health", env={"FORWARDPASS_PORT": port}).code == 0
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        other = str(bound.getsockname()[1])
        env = {"FORWARDPASS_PORT": other}
        assert f"127.0.0.1:{other}: " in run_here("health", env=env).error
        assert run_here("health", "--port", port, env=env).code == 0
        assert run_here("health", env={**env, "FORWARDPASS_TARGET": server.target}).code == 0


def test_a_model_is_asked_for_by_name(server: Serving) -> None:
    assert run_here("health", server.target, "--model", "adder").code == 0
    done = run_here("health", server.target, "--model", "nobody")
    assert done.code == 1
    assert "model 'nobody'" in done.error
    assert "no such model" in done.error


def test_a_server_that_drains_is_no_longer_healthy(repository: Path) -> None:
    with serving(repository, "--port", "0", "--drain-s", "30") as server:
        assert run("health", server.target).code == 0
        server.process.send_signal(signal.SIGTERM)
        done = run("health", server.target)
        while done.code == 0:
            done = run("health", server.target)
        assert done.code == 1
        assert done.error == f"{server.target}: expected SERVING, got NOT_SERVING"


def test_where_nothing_listens_the_fix_is_named() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        done = run_here("health", f"127.0.0.1:{bound.getsockname()[1]}", "--timeout-s", "5")
    assert done.code == 1
    assert "UNAVAILABLE" in done.error
    assert "is the server up" in done.error


def test_tls_and_mutual_tls_are_spoken(repository: Path, tmp_path: Path) -> None:
    write_self_signed(tmp_path)
    write_self_signed(tmp_path, "client_")
    pair = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    authority = ("--tls-client-ca", tmp_path / "client_cert.pem")
    with serving(repository, "--port", "0", *pair, *authority) as server:
        trust = ("--ca-file", tmp_path / "cert.pem")
        own = (
            "--cert-file",
            tmp_path / "client_cert.pem",
            "--key-file",
            tmp_path / "client_key.pem",
        )
        assert run("health", server.target, *trust, *own).code == 0
        assert run("health", server.target, *trust).code == 1
        done = run_here("health", server.target, *own[:2])
        assert done.code == 2
        assert "both or neither" in done.error


def test_a_target_that_is_none_and_a_port_of_another_kind_are_named() -> None:
    done = run_here("health", "8001")
    assert done.code == 2
    assert done.error.endswith(
        "expected HOST:PORT, got '8001'; add the host, as in 'localhost:8001'"
    )
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        Thread(target=http.handle_request).start()
        done = run_here("health", f"127.0.0.1:{http.server_port}")
    assert done.code == 1
    assert "that port does not speak gRPC" in done.stderr.splitlines()[-1]


def test_it_imports_neither_numpy_nor_onnx() -> None:
    program = "import sys, forwardpass.cli.calling.health; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "grpc" in done.stdout.split()
    assert not {"numpy", "onnx", "onnxruntime", "rich"} & set(done.stdout.split())
