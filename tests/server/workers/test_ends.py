"""Processes that end: by themselves, by a signal to the server, and with it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.certificates import Identity
from support.command import run
from support.rpc import Stub
from support.versions import BROKEN, answering, ask, put, question
from support.waiting import eventually
from support.workers import Processes, processes

from forwardpass.client import Client, Retry
from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token

pytestmark = pytest.mark.usefixtures("transport")

WORKERS = 2


@pytest.fixture
def served(root: Path, tmp_path: Path) -> Iterator[Processes]:
    put(root, "unloaded", 1, 1)
    with processes(root, tmp_path / "log", "--model-control", count=WORKERS) as served:
        yield served


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_worker_that_is_killed_loses_what_it_had_alone_and_another_takes_its_place(
    root: Path, served: Processes
) -> None:
    put(root, "m", 1, 5)
    stubs = served.stub_of_each()
    request = pb.RepositoryModelLoadRequest(model_name="m")
    next(iter(stubs.values())).call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
    killed, *others = stubs
    kill(killed)
    for pid in others:
        assert ask(stubs[pid], "m").number == 5
    eventually(lambda: len(served.workers()) == WORKERS and killed not in served.workers())
    eventually(lambda: killed not in served.workers())
    # Those that were connected to it connect again.
    for stub in served.stub_of_each().values():
        assert ask(stub, "m").number == 5
    assert f"(process {killed}) ended (SIGKILL); another starts" in served.log.read_text()


def test_models_answer_while_the_keeper_is_killed_and_all_is_as_before(
    root: Path, served: Processes
) -> None:
    stubs = list(served.stub_of_each().values())
    name = pb.RepositoryModelUnloadRequest(model_name="unloaded")
    stubs[0].call("RepositoryModelUnload", name, pb.RepositoryModelUnloadResponse)
    for _ in range(3):
        ask(stubs[0], "m")
    keeper = served.keeper()
    kill(keeper)
    for stub in stubs:
        assert ask(stub, "m").number == 1
    request = pb.RepositoryModelLoadRequest(model_name="m")
    put(root, "m", 1, 6)
    codes = set()

    def loads() -> bool:
        code = stubs[1].outcome("RepositoryModelLoad", request)
        codes.add(code)
        return code is grpc.StatusCode.OK

    eventually(loads)
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert served.keeper() != keeper
    for stub in stubs:
        assert ask(stub, "m").number == 6
        assert stub.outcome("ModelInfer", question("unloaded")) is grpc.StatusCode.NOT_FOUND


def loaded(stub: Stub, name: str) -> grpc.StatusCode:
    """Load a model, once there is a keeper."""
    request = pb.RepositoryModelLoadRequest(model_name=name)
    while (code := stub.outcome("RepositoryModelLoad", request)) is grpc.StatusCode.UNAVAILABLE:
        time.sleep(0.02)
    return code


def test_what_answers_does_so_on_after_the_keeper_though_its_file_is_bad_by_then(
    root: Path, served: Processes
) -> None:
    stubs = served.stub_of_each()
    put(root, "m", 1, BROKEN)
    put(root, "m", 2, 2)
    assert loaded(stubs[min(stubs)], "m") is grpc.StatusCode.FAILED_PRECONDITION
    kill(served.keeper())
    # All the same at the next keeper, also for a worker that comes later.
    assert loaded(stubs[min(stubs)], "m") is grpc.StatusCode.FAILED_PRECONDITION
    kill(min(stubs))
    eventually(lambda: len(served.workers()) == WORKERS and min(stubs) not in served.workers())
    for stub in served.stub_of_each().values():
        assert ask(stub, "m", "1").number == 1
        assert ask(stub, "m").number == 2
    put(root, "m", 1, 7)
    assert loaded(stubs[max(stubs)], "m") is grpc.StatusCode.OK
    for stub in served.stub_of_each().values():
        assert ask(stub, "m", "1").number == 7


def test_a_new_keeper_acknowledges_no_load_before_it_holds_for_a_worker_that_hangs(
    root: Path, served: Processes
) -> None:
    stubs = served.stub_of_each()
    hangs, other = sorted(stubs)
    done: list[grpc.StatusCode] = []
    os.kill(hangs, signal.SIGSTOP)
    try:
        kill(served.keeper())
        put(root, "m", 1, 8)
        loading = threading.Thread(target=lambda: done.append(loaded(stubs[other], "m")))
        loading.start()
        # Long enough for all others: the load ends without this one within 0.2 s.
        loading.join(2)
        assert not done
    finally:
        os.kill(hangs, signal.SIGCONT)
    loading.join(60)
    assert done == [grpc.StatusCode.OK]
    for stub in stubs.values():
        assert ask(stub, "m").number == 8


def test_a_killed_worker_loses_no_call_of_a_retrying_client(root: Path, served: Processes) -> None:
    x = np.zeros((1, 2), np.float32)
    failed: list[Exception] = []
    answered = [0] * 6
    end = threading.Event()

    def caller(index: int) -> None:
        # Each with a connection of its own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with Client(served.target, retry=Retry(attempts=8), options=options) as client:
            while not end.is_set():
                try:
                    assert client.predict("m", x)["y"][0, 0] == 1
                    answered[index] += 1
                    end.wait(0.002)
                except Exception as error:
                    failed.append(error)

    callers = [threading.Thread(target=caller, args=[index]) for index in range(6)]
    for thread in callers:
        thread.start()
    try:
        for _ in range(2):
            eventually(lambda: len(served.workers()) == WORKERS)
            before = list(answered)
            kill(min(served.workers()))
            eventually(
                lambda before=before: (
                    all(  # type: ignore[misc]
                        now > then + 20 for now, then in zip(answered, before, strict=True)
                    )
                    or failed
                )
            )
    finally:
        end.set()
        for thread in callers:
            thread.join()
    assert failed == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_and_the_server_with_0(
    served: Processes, number: signal.Signals
) -> None:
    forked = served.forked
    assert len(forked) == 1 + WORKERS
    served.send(number)
    assert served.process.wait(20) == 0
    assert all(map(gone, forked))
    assert f"{number.name}: draining" in served.log.read_text()


def test_processes_end_with_the_one_that_was_started(served: Processes) -> None:
    forked = served.forked
    served.process.kill()
    eventually(lambda: all(map(gone, forked)))


def test_while_it_drains_all_report_not_ready_and_answer(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with processes(root, log, "--drain-s", "2") as served:
        stubs = list(served.stub_of_each().values())
        served.send(signal.SIGTERM)
        eventually(lambda: "draining" in log.read_text())
        for stub in stubs:
            eventually(
                lambda stub=stub: (
                    not stub.call(  # type: ignore[misc]
                        "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse
                    ).ready
                )
            )
            assert ask(stub, "m").number == 1
        assert served.process.wait(20) == 0


def test_a_second_signal_ends_a_drain_at_once(root: Path, tmp_path: Path) -> None:
    with processes(root, tmp_path / "log", "--drain-s", "60") as served:
        served.send(signal.SIGTERM)
        eventually(lambda: "draining" in served.log.read_text())
        served.send(signal.SIGTERM)
        assert served.process.wait(20) == 0


def test_a_port_that_is_taken_ends_the_start(root: Path, tmp_path: Path) -> None:
    with processes(root, tmp_path / "log") as served:
        ended = run("serve", root, "--processes", "2", "--port", str(served.port))
    assert ended.code == 1
    assert "cannot listen on" in ended.stderr


def test_a_repository_of_which_nothing_loads_ends_the_start(tmp_path: Path) -> None:
    root = tmp_path / "broken"
    put(root, "m", 1, BROKEN)
    ended = run("serve", root, "--processes", "2", "--port", "0", "--no-watch")
    assert ended.code == 1
    assert "no model loaded; the log above says why" in ended.stderr


def test_tls_is_spoken_by_all(root: Path, tmp_path: Path) -> None:
    authority = Identity.make("authority")
    own = Identity.make("server", authority)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(own.chain_pem)
    key.write_bytes(own.key_pem)
    key.chmod(0o600)
    trusted = grpc.ssl_channel_credentials(authority.chain_pem)
    with processes(root, tmp_path / "log", "--tls-cert", cert, "--tls-key", key) as served:
        for _ in range(4):
            with Stub(served.target, trusted) as stub:
                assert ask(stub, "m").number == 1
        # Another authority from now on, for all.
        other = Identity.make("other")
        mine = Identity.make("server", other)
        key.write_bytes(mine.key_pem)
        cert.write_bytes(mine.chain_pem)
        served.send(signal.SIGHUP)
        eventually(lambda: "SIGHUP: read\n" in served.log.read_text())
        # Written by another process than the line before.
        eventually(lambda: "new certificate in use" in served.log.read_text())
        for _ in range(4):
            with Stub(served.target, grpc.ssl_channel_credentials(other.chain_pem)) as stub:
                assert ask(stub, "m").number == 1
        assert served.log.read_text().count("new certificate in use") == 1


def test_a_socket_in_the_file_system_is_shared(root: Path, tmp_path: Path, transport: str) -> None:
    path = tmp_path / "s"
    arguments = ("--host", f"unix:{path}", "--transport", transport)
    if transport == "grpcio":
        ended = run("serve", root, "--processes", "2", *arguments)
        assert "processes: expected 1 with grpcio on a Unix socket" in ended.stderr
        return
    with processes(root, tmp_path / "log", *arguments) as served:
        for stub in served.stub_of_each().values():
            assert ask(stub, "m").number == 1
        served.send(signal.SIGTERM)
        assert served.process.wait(20) == 0
    assert not path.exists()


def test_connections_are_shared_out(root: Path, tmp_path: Path, transport: str) -> None:
    if transport == "grpcio":
        pytest.skip("the system shares them out")
    with processes(root, tmp_path / "log", count=3) as served:
        from support.workers import connected

        def counts() -> list[int]:
            return sorted(len(connected(pid, served.target)) for pid in served.workers())

        # A worker that does not come to it in time leaves a connection to others.
        for number in range(1, 97):
            stub = served.stub()
            grpc.channel_ready_future(stub.channel).result(20)
            eventually(lambda number=number: sum(counts()) == number)  # type: ignore[misc]
            if number >= 24 and min(counts()) >= 4:
                break
        assert min(counts()) >= 4


def test_the_limits_of_a_token_are_those_of_all_processes(root: Path, tmp_path: Path) -> None:
    made = new_token("web", ["*"], [Action.INFER], calls_per_s=0.001)
    tokens = tmp_path / "tokens"
    tokens.write_text(made.line + "\n")
    tokens.chmod(0o600)
    metadata = [("authorization", f"Bearer {made.token}")]
    with processes(root, tmp_path / "log", "--tokens", tokens) as served:
        first, *others = served.stub_of_each().values()
        assert ask(first, "m", metadata=metadata).number == 1
        for stub in others:
            refusal = stub.refusal("ModelInfer", question("m"), metadata=metadata)
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "0.001" in refusal.message


@pytest.mark.slow
def test_a_model_that_not_all_processes_have_memory_for_is_refused(
    root: Path, tmp_path: Path, transport: str
) -> None:
    if transport == "grpcio":
        pytest.skip("no matter of the transport")
    # 36 MiB, which one process loads with ease.
    put(root, "large", 1, answering(1, 3072).SerializeToString())
    limited = 'ulimit -d 700000; exec "$0" -m forwardpass.cli "$@"'
    program = ("sh", "-c", limited, sys.executable)
    with processes(root, tmp_path / "log", count=8, program=program) as served:
        assert ask(served.stub(), "m").number == 1
        assert "takes up to 576 MiB more while it is loaded" in served.log.read_text()
