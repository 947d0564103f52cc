"""`forwardpass serve`: what it says, how it ends, how it is set."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import onnx_files
from support.command import Serving, environment, run, serving, started
from support.versions import put
from support.waiting import eventually

from forwardpass.client import Client, OverloadedError
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.repository.disk import EmptyRepositoryError


def answers(target: str) -> bool:
    with Client(target) as client:
        return client.ready()


def test_it_says_what_it_serves_and_where(server: Serving) -> None:
    host, port = server.target.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    lines = [[cell.strip() for cell in row.split("│")] for row in server.said.splitlines()]
    assert ["", "adder", "1, 2", "x: FP32[-1, 2]", "y: FP32[-1, 2]", ""] in lines
    assert ["", "", "", "", "sum: FP32[-1, 1]", ""] in lines
    assert answers(server.target)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_it_with_exit_code_0(repository: Path, number: signal.Signals) -> None:
    with serving(
        repository / "linear" / "1" / "model.onnx", "--port", "0", "--drain-s", "0"
    ) as server:
        server.process.send_signal(number)
        assert server.process.wait(10) == 0


def test_sigterm_lets_it_answer_for_drain_s_more_while_it_is_not_ready(repository: Path) -> None:
    with (
        serving(repository, "--port", "0", "--drain-s", "1.5") as server,
        Client(server.target) as client,
    ):
        assert client.ready()
        started = time.monotonic()
        server.process.terminate()
        while client.ready():
            time.sleep(0.02)
        np.testing.assert_array_equal(client.predict("adder", [1, 2])["sum"], [3])
        assert server.process.wait(10) == 0
        assert time.monotonic() - started >= 1.5


def test_sigint_while_it_loads_ends_it_at_once(tmp_path: Path) -> None:
    for index in range(300):
        onnx_files.save(onnx_files.linear(), tmp_path / f"{index}.onnx")
    with started(
        *("serve", tmp_path, "--port", "0"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "is ready" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "ready on" not in out


def test_a_port_in_use_is_refused(server: Serving, repository: Path) -> None:
    port = server.target.split(":")[1]
    done = run("serve", repository, "--port", port)
    assert done.code == 1
    assert "Traceback" not in done.stderr
    # gRPC's own library may add its line.
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("nothing",), 1, "nothing: no such file or directory; name a .onnx file"),
        (("empty", "--no-watch"), 1, "empty: expected a .onnx file"),
        (("model.onnx", "--tls-cert", "model.onnx"), 2, "tls_cert and tls_key: expected both"),
        (("model.onnx", "--max-message-bytes", "1"), 2, "max_message_bytes: expected 1024"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    (tmp_path / "empty").mkdir()
    onnx_files.save(onnx_files.linear(), tmp_path / "model.onnx")
    done = run("serve", *arguments, cwd=tmp_path)
    assert done.code == code
    assert done.error.startswith(text)
    assert done.stdout == ""


def test_over_an_empty_folder_it_says_what_it_waits_for_and_is_ready_with_the_first_model(
    tmp_path: Path,
) -> None:
    with started(
        *("serve", tmp_path, "--port", "0", "--drain-s", "0"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.endswith(
            f"no model of {tmp_path} answers yet: not ready until one does; looked for "
            "are .onnx files and NAME/VERSION/model.onnx\n"
        )
        put(tmp_path, "late", 1, 1)
        assert "is ready" in process.stderr.readline()
        assert process.stdout is not None
        assert any(said.startswith("ready on 127.0.0.1:") for said in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_without_one_model_that_loads_it_ends_with_1_and_the_reason_in_the_log(
    tmp_path: Path,
) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"this is no model")
    done = run("serve", tmp_path, "--port", "0")
    assert done.code == 1
    *log, error = done.stderr.splitlines()
    assert error == f"error: {tmp_path}: no model loaded; the log above says why"
    assert any("model 'garbage' version 1 failed: " in line for line in log)
    assert "Traceback" not in done.stderr


def test_the_models_that_load_are_served_beside_one_that_fails(tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"this is no model")
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    with serving(tmp_path, "--port", "0") as server, Client(server.target) as client:
        assert "failed" in server.said
        assert client.model_ready("linear")
        assert not client.model_ready("garbage")


def test_a_file_that_is_no_model_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n")
    with pytest.raises(EmptyRepositoryError, match=r"expected a \.onnx file.*name one of them"):
        Server(Config(models=tmp_path / "rows.csv", port=0))


def test_more_connections_than_there_may_be_open_files_are_warned_of(
    repository: Path, tmp_path: Path
) -> None:
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)); "
        "from forwardpass.cli.__main__ import main; main()"
    )
    model = repository / "linear" / "1" / "model.onnx"
    log = tmp_path / "log"
    options = ("--port", "0", "--max-connections", "257")
    with serving(model, *options, log=log, program=(sys.executable, "-c", limited)):
        warning = "max_connections: expected at most 256 with a limit of 512"
        eventually(lambda: warning in log.read_text())


def test_the_environment_sets_what_no_flag_does(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    env = {
        "FORWARDPASS_MODELS": str(repository / "linear" / "1" / "model.onnx"),
        "FORWARDPASS_PORT": port,
        "FORWARDPASS_HOST": "localhost",
        "FORWARDPASS_MAX_MESSAGE_BYTES": "2048",
        "FORWARDPASS_DRAIN_S": "0",
    }
    with serving(env=env) as server, Client(server.target) as client:
        assert server.target == f"localhost:{port}"
        assert client.metadata("model").inputs
        with pytest.raises(OverloadedError, match="2048"):
            client.predict("model", np.zeros((300, 3)))
        server.process.terminate()
        assert server.process.wait(4) == 0


def test_a_flag_is_over_the_environment(repository: Path) -> None:
    env = {
        "FORWARDPASS_MODELS": "nothing",
        "FORWARDPASS_PORT": "1",
        "FORWARDPASS_HOST": "256.0.0.1",
        "FORWARDPASS_WORKERS": "0",
    }
    flags = ("--port", "0", "--host", "127.0.0.1", "--workers", "2")
    with serving(repository, *flags, env=env) as server:
        assert answers(server.target)


def test_a_bad_value_in_the_environment_is_wrong_usage(repository: Path) -> None:
    done = run("serve", repository, env={"FORWARDPASS_PORT": "http"})
    assert done.code == 2
    assert "'--port'" in done.stderr


def test_addresses_that_kubernetes_puts_into_variables_of_ours_are_left_aside_with_a_warning(
    repository: Path, tmp_path: Path
) -> None:
    link = "tcp://10.0.0.1:8001"
    env = {"FORWARDPASS_PORT": link, "FORWARDPASS_METRICS_PORT": link}
    place = f"unix:{tmp_path}/socket"  # no port of this machine's
    log = tmp_path / "log"
    model = repository / "linear" / "1" / "model.onnx"
    with serving(model, "--host", place, env=env, log=log) as server:
        assert answers(server.target)
    warnings = [line for line in log.read_text().splitlines() if line.startswith("warning: ")]
    for name, warning in zip(env, warnings, strict=True):
        assert warning.startswith(f"warning: {name}: expected a port, got {link!r}")
        assert "enableServiceLinks: false" in warning


def test_an_ipv6_address_is_reported_as_a_target(repository: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(
        repository / "linear" / "1" / "model.onnx", "--port", "0", "--host", "::1"
    ) as server:
        assert server.target.startswith("[::1]:")
        assert answers(server.target)


def test_without_uvloop_it_serves_on_pythons_own_loop_and_says_so(
    repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    # As on Windows and PyPy, which have none.
    without = "import sys; sys.modules['uvloop'] = None; from forwardpass.cli.__main__ import main"
    program = (sys.executable, "-c", f"{without}; main()")
    with serving(repository, "--port", "0", "--drain-s", "0", log=log, program=program) as server:
        with Client(server.target) as client:
            np.testing.assert_array_equal(client.predict("adder", [1, 2])["sum"], [3])
        server.process.terminate()
        assert server.process.wait(10) == 0
    assert "Python's own event loop is used, with more CPU a call: " in log.read_text()
