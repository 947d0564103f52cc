"""`forwardpass health` against real servers."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from support.certificates import write_self_signed
from support.command import Serving, run, run_here, serving


def test_a_server_that_serves_ends_with_0_and_says_nothing(server: Serving) -> None:
    done = run("health", server.target)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_the_target_is_taken_from_the_variable_that_predict_takes(server: Serving) -> None:
    assert run_here("health", env={"FORWARDPASS_TARGET": server.target}).code == 0


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


def test_it_imports_neither_numpy_nor_onnx() -> None:
    program = "import sys, forwardpass.cli.health; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "grpc" in done.stdout.split()
    assert not {"numpy", "onnx", "onnxruntime", "rich"} & set(done.stdout.split())
