"""`forwardpass ui`: a page on loopback, opened in a browser, until Ctrl-C."""

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.command import environment, run, started
from support.ports import free_ports
from support.rest import Rest
from support.waiting import eventually


@dataclass(frozen=True)
class Page:
    process: "subprocess.Popen[str]"
    url: str
    port: int


@contextmanager
def page(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[Page]:
    with started(
        *("ui", *arguments),
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"page on (http://127\.0\.0\.1:(\d+)/) \(Ctrl-C ends it\)\n", line)
            assert found is not None, line
            yield Page(process, found[1], int(found[2]))
        finally:
            process.kill()


@pytest.fixture
def browser(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Variables that have a program for a browser, and the file where it writes what it opened."""
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> {opened}\n')
    program.chmod(0o755)
    return {"BROWSER": f"{program} %s"}, opened


@pytest.mark.parametrize(("path", "model"), [(".", "linear"), ("linear/1/model.onnx", "model")])
def test_it_opens_the_page_of_a_file_or_a_repository_and_ends_with_the_signal(
    repository: Path, path: str, model: str, browser: tuple[dict[str, str], Path]
) -> None:
    variables, opened = browser
    with page(repository / path, env=variables) as shown:
        eventually(lambda: opened.exists() and opened.read_text() == f"{shown.url}\n")
        with urlopen(f"{shown.url}v2/repository/index") as answer:
            assert model in {each["name"] for each in json.load(answer)}
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(20) == 0


def test_only_this_machine_reaches_it_at_the_port_that_was_asked_for(repository: Path) -> None:
    (port,) = free_ports(1)
    with page(repository, "--port", str(port), "--no-browser") as shown:
        assert shown.port == port
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{shown.process.pid}/net/{table}").read_text().splitlines()
            if f":{port:04X} " in line and line.split()[3] == "0A"
        ]
        assert listening == [f"0100007F:{port:04X}"]
        with Rest(port) as client:
            answer = client.call("GET", "/v2", None, {"Host": "evil.example"})
            assert answer.status == 421


def test_without_a_browser_none_is_opened(
    repository: Path, browser: tuple[dict[str, str], Path]
) -> None:
    variables, opened = browser
    with page(repository, "--no-browser", env=variables) as shown:
        with urlopen(f"{shown.url}v2/health/live") as answer:
            assert answer.status == 200
        shown.process.terminate()
        # By then a browser would have been started.
        assert shown.process.wait(20) == 0
    assert not opened.exists()


def test_settings_of_servers_in_the_environment_are_not_meant_for_it(repository: Path) -> None:
    env = {"FORWARDPASS_HOST": "nowhere.invalid", "FORWARDPASS_TOKENS": "none", "BROWSER": "true"}
    with (
        page(repository, env=env) as shown,
        urlopen(f"{shown.url}v2/models/linear") as answer,
    ):
        assert answer.status == 200


def test_what_cannot_be_shown_is_refused_in_one_line(tmp_path: Path, repository: Path) -> None:
    done = run("ui", tmp_path / "nothing", "--no-browser")
    assert (done.code, done.stdout) == (1, "")
    assert "no such file or directory" in done.error
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("ui", repository, "--port", str(port), "--no-browser")
    assert done.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
