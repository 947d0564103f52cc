"""Thousands of reloads under load over four processes, and workers killed all along."""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from support.rpc import Stub
from support.versions import answering, ask, put, remove
from support.waiting import eventually
from support.workers import processes

from forwardpass.client import Client, Retry
from forwardpass.proto import inference_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("transport")]

WORKERS = 4
RELOADS = 2000
CALLERS = 8
WIDTH = 48
"""Makes a model of 10 kB."""


@dataclass
class Caller:
    """Calls all the time, and keeps what was wrong."""

    stub: Stub
    name: str
    acknowledged: dict[str, int]
    """The number of the last load of each model that was answered."""
    calls: int = 0
    wrong: list[object] = field(default_factory=list)

    def run(self, end: threading.Event) -> None:
        while not end.is_set():
            before = self.acknowledged[self.name]
            try:
                answer = ask(self.stub, self.name, width=WIDTH)
            except Exception as error:
                self.wrong.append(error)
                continue
            self.calls += 1
            if answer.number < before or (self.name == "versions" and answer.number != answer[0]):
                self.wrong.append((answer, before))
            # At full speed they would take the cores from the server.
            end.wait(0.003)


def write(root: Path, name: str, version: int, number: int) -> None:
    put(root, name, version, answering(number, WIDTH).SerializeToString())


def test_2000_reloads_under_load_over_4_processes_answer_no_older_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], transport: str
) -> None:
    root = tmp_path / "root"
    write(root, "versions", 1, 1)
    write(root, "content", 1, 1)
    acknowledged = {"versions": 1, "content": 1}
    arguments = ("--model-control", "--no-watch")
    with processes(root, tmp_path / "log", *arguments, count=WORKERS, timeout_s=1800.0) as served:
        stubs = list(served.stub_of_each().values())
        callers = [
            Caller(served.stub(), ("versions", "content")[index % 2], acknowledged)
            for index in range(CALLERS)
        ]
        end = threading.Event()
        threads = [threading.Thread(target=caller.run, args=[end]) for caller in callers]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        after: list[object] = []
        try:
            for number in range(2, RELOADS + 2):
                name = ("versions", "content")[number % 2]
                write(root, name, number if name == "versions" else 1, number)
                if name == "versions" and number > 4:
                    remove(root, name, number - 4)
                stubs[number % WORKERS].call(
                    "RepositoryModelLoad",
                    pb.RepositoryModelLoadRequest(model_name=name),
                    pb.RepositoryModelLoadResponse,
                )
                acknowledged[name] = number
                # At once, of another worker than the one that answered.
                answer = ask(stubs[(number + 1) % WORKERS], name, width=WIDTH)
                if answer.number != number:
                    after.append((answer, number))
        finally:
            end.set()
            for thread in threads:
                thread.join()
        took_s = time.monotonic() - started
    calls = sum(caller.calls for caller in callers)
    with capsys.disabled():
        print(
            f"\n{RELOADS} reloads over {WORKERS} processes, {transport}, in {took_s:.0f} s under "
            f"{calls} calls: {sum(len(caller.wrong) for caller in callers)} failed or wrong, "
            f"{len(after)} older than what was acknowledged"
        )
    assert after == []
    assert [caller.wrong for caller in callers] == [[]] * CALLERS
    assert calls > RELOADS


KILLS = 12


def test_workers_killed_all_along_lose_no_call_of_a_retrying_client(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], transport: str
) -> None:
    x = np.zeros((1, 2), np.float32)
    failed: list[Exception] = []
    answered = [0] * CALLERS
    end = threading.Event()

    def caller(index: int, target: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with Client(target, retry=Retry(attempts=10, budget=10_000), options=options) as client:
            while not end.is_set():
                try:
                    assert client.predict("m", x)["y"][0, 0] == 1
                    answered[index] += 1
                except Exception as error:
                    failed.append(error)
                end.wait(0.003)

    with processes(root, tmp_path / "log", count=WORKERS, timeout_s=1800.0) as served:
        callers = [
            threading.Thread(target=caller, args=(index, served.target)) for index in range(CALLERS)
        ]
        for thread in callers:
            thread.start()
        try:
            for _ in range(KILLS):
                eventually(lambda: len(served.workers()) == WORKERS)
                os.kill(max(served.workers()), signal.SIGKILL)
                time.sleep(0.3)
        finally:
            end.set()
            for thread in callers:
                thread.join()
    with capsys.disabled():
        print(f"\n{KILLS} workers killed, {transport}, under {sum(answered)} calls: {failed[:3]}")
    assert failed == []
