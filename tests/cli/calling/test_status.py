"""`forwardpass status` against real servers: ours, and one that offers no more than it must."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from client.conftest import OipServer
from support.command import Serving, environment, run, run_here, serving, started

from forwardpass.client import Client


@pytest.fixture(scope="module")
def own(repository: Path) -> Iterator[Serving]:
    """A server that only this file's tests call."""
    with serving(repository, "--port", "0") as server, Client(server.target) as client:
        for rows in (1, 4, 7):
            client.predict("adder", np.ones((rows, 2)), version="1")
        yield server


@pytest.fixture
def bare() -> Iterator[OipServer]:
    """A server of the six calls that every server has."""
    server = OipServer()
    running = server.start()
    yield server
    running.stop(None).wait()


def line(output: str, beginning: str) -> list[str]:
    (found,) = [line for line in output.splitlines() if line.startswith(beginning)]
    return found.split()


def test_every_version_shows_with_its_state_and_what_it_has_answered(own: Serving) -> None:
    done = run("status", own.target, columns=80)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{own.target}: forwardpass ")
    assert max(map(len, done.stdout.splitlines())) <= 80
    adder = [text.split() for text in done.stdout.splitlines() if text.startswith("adder")]
    (first, second) = adder
    assert first[:7] == ["adder", "1", "READY", "3", "0", "12", "4.0"]
    assert all(float(mean.replace(",", "")) >= 0 for mean in first[7:])
    assert second == ["adder", "2", "READY", "0", "0", "0"]


def test_json_has_it_for_programs(own: Serving) -> None:
    done = run_here("status", own.target, "--model", "adder", "--json")
    look = json.loads(done.stdout)
    assert (look["target"], look["ready"], look["notes"]) == (own.target, True, [])
    first, second = look["models"]
    assert [first["version"], second["version"]] == ["1", "2"]
    assert [first["statistics"][name] for name in ("answered", "failed", "rows")] == [3, 0, 12]


def test_a_model_that_failed_shows_with_its_reason(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "adder.onnx").write_bytes((repository / "adder/1/model.onnx").read_bytes())
    with serving(tmp_path, "--port", "0") as server:
        done = run_here("status", server.target)
    assert line(done.stdout, "broken  ")[:3] == ["broken", "1", "UNAVAILABLE"]
    assert "broken 1: " in done.stdout


def test_a_model_that_is_not_there_is_reported(own: Serving) -> None:
    done = run_here("status", own.target, "--model", "nobody")
    assert done.code == 1
    assert "model 'nobody' not found; the server lists adder, " in done.error


def test_what_a_server_does_not_offer_is_said(bare: OipServer) -> None:
    done = run_here("status", bare.target)
    assert done.code == 0
    assert "it does not list its models (no RepositoryIndex); name them by --model" in done.stdout
    assert "it does not count calls (no ModelStatistics)" in done.stdout
    done = run_here("status", bare.target, "--model", "net")
    assert line(done.stdout, "net ") == ["net", "1", "READY"]
    assert "--model" not in done.stdout


def test_where_nothing_answers_it_ends_with_1() -> None:
    done = run_here("status", "127.0.0.1:1", "--retries", "0")
    assert done.code == 1
    assert "check that the server runs there" in done.error


def test_watching_looks_again_until_it_is_interrupted(own: Serving) -> None:
    with started(
        *("status", own.target, "--watch", "--every-s", "0.1", "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert all(look["ready"] for look in looks)
    assert "Traceback" not in said


def test_while_watching_figures_are_those_since_the_look_before(own: Serving) -> None:
    with started(
        *("status", own.target, "--watch", "--every-s", "0.5", "--model", "pair"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        rates = []
        for text in process.stdout:
            if text.startswith("pair"):
                rates.append(text.split()[6:])
                if len(rates) == 2:
                    break
        process.send_signal(signal.SIGINT)
        process.wait(60)
    # No call came: nothing to take a mean of, and none a second.
    assert rates == [[], ["0"]]
