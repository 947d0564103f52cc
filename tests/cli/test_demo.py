"""`forwardpass demo`: what it shows, and that nothing of it stays."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support.command import COMMAND, environment, run

from forwardpass.client import Client
from forwardpass.models.zoo import ZOO


def children_of(folder: Path) -> list[str]:
    """The commands of all processes that serve out of a folder."""
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [command for command in commands if str(folder) in command]


def test_it_shows_accuracy_differences_and_times_and_leaves_nothing(tmp_path: Path) -> None:
    done = run("demo", columns=80, env={"TMPDIR": str(tmp_path), "FORWARDPASS_TLS_CERT": "none"})
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    for name, example in ZOO.items():
        for output in example.network().outputs:
            row = next(
                line for line in lines if re.match(rf"│ {name} +│ {re.escape(output.name)} ", line)
            )
            assert float(row.split("│")[4]) <= 2e-6
    (accuracy,) = re.findall(r"accuracy on all 114: ([\d.]+)%", done.stdout)
    assert float(accuracy) >= 95
    for part in ("client", "network", "server", "onnxruntime"):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert children_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kept_it_serves_until_a_signal_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--keep"],
        env=environment({"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}),
        stdout=subprocess.PIPE,
        text=True,
        # So that the signal reaches the server as Ctrl-C in a terminal does.
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        target = next(
            found[1]
            for line in process.stdout
            if (found := re.match(r"the server stays on (\S+) until Ctrl-C", line))
        )
        with Client(target) as client:
            assert client.ready()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == (0 if number == signal.SIGINT else 128 + signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert children_of(tmp_path) == []


def test_a_port_in_use_ends_it_with_the_servers_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("demo", "--port", str(taken.getsockname()[1]), env={"TMPDIR": str(tmp_path)})
    assert done.code == 1
    assert "the server did not come up" in done.stderr
    assert "cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
