"""What each signal does to `forwardpass serve`, from its first moment on."""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Identity
from support.command import COMMAND, Serving, environment, serving, started
from support.versions import label, put
from support.waiting import eventually

from forwardpass.client import Client
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token

EARLY = """
import os, sys

class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "forwardpass.cli.options":
            print(os.getpid() == 1, sorted({"typer", "numpy", "logging"} & set(sys.modules)))
            sys.stdout.flush()
            os.kill(os.getpid(), SIGNAL)
            print("goes on", flush=True)
            os._exit(3)

sys.meta_path.insert(0, Look())
sys.argv = ["forwardpass", "serve", "nothing"]
from forwardpass.cli.__main__ import main

main()
"""
FIRST = ("unshare", "--pid", "--fork", "--kill-child")
"""Makes a program process 1, as in a container."""


def may_be_first() -> bool:
    try:
        return subprocess.run([*FIRST, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("first", [False, True], ids=["a process", "process 1"])
@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("SIGTERM", True),
        ("SIGINT", True),
        ("SIGQUIT", True),
        ("SIGHUP", False),
        ("SIGUSR1", False),
        ("SIGUSR2", False),
    ],
)
def test_signals_are_handled_before_anything_is_imported_that_takes_time(
    name: str, ends: bool, first: bool
) -> None:
    if first and not may_be_first():
        pytest.skip("no namespace of processes can be made here")
    program = [sys.executable, "-c", EARLY.replace("SIGNAL", str(getattr(signal, name).value))]
    done = subprocess.run(
        [*(FIRST if first else ()), *program], capture_output=True, text=True, timeout=60
    )
    imported, *rest = done.stdout.splitlines()
    assert imported == f"{first} []", done.stderr
    assert (done.returncode, rest) == ((0, []) if ends else (3, ["goes on"]))


@pytest.fixture(params=["grpcio", "asyncio"])
def secured(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Serving, Path, Identity]]:
    """A server that looks at its models only when told to, with a certificate and tokens."""
    authority = Identity.make("authority")
    cert, key = Identity.make("server", authority).write(tmp_path)
    put(tmp_path / "models", "m", 1, 1)
    put(tmp_path / "models", "m", 2, 2)
    label(tmp_path / "models", "m", {"stable": 1})
    tokens = tmp_path / "tokens"
    tokens.write_text(new_token("web", ["*"], list(Action)).line)
    options: list[str | Path] = ["--port", "0", "--no-watch", "--transport", request.param]
    options += ["--tls-cert", cert, "--tls-key", key, "--tokens", tokens, "--drain-s", "0"]
    with serving(tmp_path / "models", *options, log=tmp_path / "log") as server:
        yield server, tmp_path, authority


def test_sighup_has_everything_read_again_that_may_be_replaced(
    secured: tuple[Serving, Path, Identity],
) -> None:
    server, folder, authority = secured
    log = folder / "log"
    Identity.make("next", authority).write(folder)
    made = new_token("next", ["*"], list(Action))
    (folder / "tokens").write_text(made.line)
    label(folder / "models", "m", {"stable": 2})
    put(folder / "models", "later", 1, 3)

    server.process.send_signal(signal.SIGHUP)

    # By itself: no connection and no call makes the server look.
    eventually(lambda: "SIGHUP: read\n" in log.read_text())
    text = log.read_text()
    assert "new certificate in use" in text
    assert f"{folder / 'tokens'}: read again" in text
    assert "model 'later' version 1 is ready" in text
    assert '"model": "m", "label": "stable", "before": 1, "after": 2' in text
    target = server.target.replace("127.0.0.1", "localhost")
    (folder / "ca.pem").write_bytes(authority.chain_pem)
    with Client(target, tls=True, ca_file=folder / "ca.pem", token=made.token) as client:
        assert client.model_ready("later")
        assert client.model_ready("m", "stable")


def test_signals_without_a_meaning_are_ignored_and_said(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    model = repository / "linear" / "1" / "model.onnx"
    with serving(model, "--port", "0", "--drain-s", "0", log=log) as server:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            server.process.send_signal(number)
        eventually(lambda: log.read_text().count(": ignored") == 2)
        with Client(server.target) as client:
            assert client.ready()


def test_sigquit_drains_like_sigterm(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        serving(repository, "--port", "0", "--drain-s", "30", log=log) as server,
        Client(server.target) as client,
    ):
        assert client.ready()
        server.process.send_signal(signal.SIGQUIT)
        eventually(lambda: "SIGQUIT: draining" in log.read_text())
        # Neither ends the drain.
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGUSR1)
        eventually(lambda: "SIGUSR1: ignored" in log.read_text())
        assert not client.ready()
        assert client.predict("adder", [1, 2])["sum"] == 3
        server.process.send_signal(signal.SIGQUIT)
        assert server.process.wait(10) == 0


def test_a_terminal_that_is_closed_ends_its_server(repository: Path, tmp_path: Path) -> None:
    model = repository / "linear" / "1" / "model.onnx"
    log = tmp_path / "log"
    command = [*COMMAND, "serve", str(model), "--port", "0"]
    pid, terminal = pty.fork()
    if not pid:
        with log.open("w") as written:
            os.dup2(written.fileno(), 1)
            os.dup2(written.fileno(), 2)
        os.execve(command[0], command, environment())
    try:
        eventually(lambda: log.exists() and "ready on" in log.read_text())
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: "SIGHUP: read\n" in log.read_text())

        os.close(terminal)

        eventually(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
    finally:
        if "stopped after" not in log.read_text():
            os.kill(pid, signal.SIGKILL)
    assert "SIGINT: draining" in log.read_text()


def test_a_stdout_that_nobody_reads_does_not_stop_the_end(repository: Path, tmp_path: Path) -> None:
    unread, written = os.pipe()
    os.set_blocking(written, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(written, b"x" * 4096)
    os.set_blocking(written, True)
    place = f"unix:{tmp_path}/socket"
    with started(
        *("serve", repository, "--host", place, "--drain-s", "0"),
        env=environment(),
        stdout=written,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(written)
        eventually((tmp_path / "socket").exists)
        with Client(place) as client:
            eventually(client.ready)
        process.terminate()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(unread)


@pytest.mark.parametrize("transport", ["grpcio", "asyncio"])
def test_a_stderr_that_nobody_reads_stops_neither_calls_nor_the_end(
    repository: Path, transport: str
) -> None:
    options = ("--port", "0", "--drain-s", "0", "--log-calls", "--transport", transport)
    with started(
        *("serve", repository, *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        line = next(line for line in process.stdout if line.startswith("ready on "))
        with Client(line.removeprefix("ready on ").strip()) as client:
            # Lines of far more bytes than the pipe holds.
            for _ in range(100):
                client.predict("adder", [1, 2])
        process.terminate()
        assert process.wait(20) == 0
