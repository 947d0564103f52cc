"""Every kind of harm in turn against one server, within the memory it is deployed with.

Meanwhile somebody calls a model and asks for the server's health: both have to go on.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import helper
from support import onnx_files
from support.cgroups import MemoryCgroup, memory_cgroup
from support.hostile_files import HARMFUL
from support.hostile_files import MEMORY_BYTES as TRIAL_BYTES
from support.onnx_files import build, save, tensor
from support.peers.frames import call, headers, rst_stream
from support.peers.peer import Peer
from support.proc import children, cpu_s, peak_mib
from support.raw import Deaf, wide_call
from support.rpc import Stub
from support.served import GOOD
from support.wire import arrays, assert_same_bits, infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.config import Transport

MEMORY_BYTES = 2**30
"""As in docker-compose.yml and deploy/kubernetes."""
HEALTH_S = 5.0
"""Within which a probe has to be answered: the deployments' own time limits are no shorter."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Bystander:
    """Calls, and asks for health, from connections of its own."""

    port: int
    token: str
    calls_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    again: int = 0
    """Number of calls that were answered UNAVAILABLE and made again."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.calls_s, self.health_s = [], []
        over = threading.Event()
        threads = [
            threading.Thread(target=self._repeat, args=(over, *each))
            for each in ((self._call, self.calls_s), (self._probe, self.health_s))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _repeat(
        self, over: threading.Event, ask: Callable[[Stub], None], times: list[float]
    ) -> None:
        try:
            with Stub(self.port) as stub:
                while not over.is_set() or not times:
                    start = time.monotonic()
                    ask(stub)
                    times.append(time.monotonic() - start)
                    over.wait(0.02)
        except BaseException as error:
            self.failures.append(error)

    def _call(self, stub: Stub) -> None:
        request = GOOD["linear"].request()
        reply = self._retried(lambda: stub.infer(request, metadata=bearer(self.token)))
        got = arrays(reply)
        for name, expected in GOOD["linear"].answer.items():
            assert_same_bits(got[name], expected)

    def _retried(self, call: Callable[[], Any]) -> Any:
        """Do what every client and probe does: a busy grpcio may refuse streams."""
        for pause_s in (0.1, 0.2, 0.4, 0.8):
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self.again += 1
                time.sleep(pause_s)
        return call()

    def _probe(self, stub: Stub) -> None:
        of_theirs: Any = health_pb2_grpc.HealthStub(stub.channel)
        asked = health_pb2.HealthCheckRequest()
        answer = self._retried(lambda: of_theirs.Check(asked, timeout=HEALTH_S))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def bearer(token: str) -> Any:
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class Target:
    port: int
    root: Path
    token: str

    def stub(self) -> Stub:
        return Stub(self.port)

    def outcome(
        self, stub: Stub, method: str, body: bytes, *, timeout: float = 60, **options: Any
    ) -> grpc.StatusCode:
        """Send bytes and return the code."""
        send: Any = stub.channel.unary_unary(f"/{method}")
        try:
            send(body, timeout=timeout, metadata=bearer(self.token), **options)
        except grpc.RpcError as error:
            code = error.code()
            assert isinstance(code, grpc.StatusCode)
            return code
        return grpc.StatusCode.OK


INFER = "inference.GRPCInferenceService/ModelInfer"
MANY = 4_000_000


def many_empty_fields(target: Target) -> None:
    """8 MiB of fields without content: inputs, outputs, tensors, parameters."""
    name = b"\x0a\x06linear"
    with target.stub() as stub, ThreadPoolExecutor(4) as pool:
        bodies = [name + bytes([number << 3 | 2, 0]) * MANY for number in (4, 5, 6, 7)]
        for code in pool.map(lambda body: target.outcome(stub, INFER, body), bodies):
            assert code is grpc.StatusCode.INVALID_ARGUMENT


def many_empty_fields_of_any_rpc(target: Target) -> None:
    """The same of every other RPC that has a body."""
    service = "inference.GRPCInferenceService/"
    with target.stub() as stub, ThreadPoolExecutor(4) as pool:
        names = ("RepositoryModelLoad", "RepositoryIndex", "ModelConfig", "LogSettings")
        for method in (*(service + name for name in names), "grpc.health.v1.Health/Check"):
            bodies = [bytes([number << 3 | 2, 0]) * MANY for number in (1, 2, 3, 15)]
            codes = pool.map(partial(target.outcome, stub, method), bodies)
            assert grpc.StatusCode.OK not in set(codes), method


def zipped_zeros(target: Target) -> None:
    """Messages of a few kilobytes that unpack to the largest size allowed, and to far more."""
    raw = infer_request("linear", {"x": np.zeros((2**20, 3), np.float32)}).SerializeToString()
    with target.stub() as stub, ThreadPoolExecutor(8) as pool:
        for body in (raw, raw * 20):
            codes = pool.map(
                lambda body: target.outcome(stub, INFER, body, compression=grpc.Compression.Gzip),
                [body] * 8,
            )
            assert set(codes) <= {
                grpc.StatusCode.OK,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            }


def silent_connections(target: Target) -> None:
    """Connections that say nothing, or half of something, and stay."""
    with ExitStack() as stack:
        for number in range(600):
            peer = stack.enter_context(Peer(target.port, greet=number % 3 > 0))
            if number % 3 == 2:
                peer.send(headers(1))
        time.sleep(2)


def resets(target: Target) -> None:
    """Calls that are begun and given up at once, as fast as they can be sent."""
    for _ in range(8):
        with Peer(target.port) as peer:
            for number in range(1, 4001, 2):
                peer.send(headers(number) + rst_stream(number))
                if peer.closed:
                    break


def calls_that_nobody_reads(target: Target) -> None:
    """Calls from connections that read none of the answers."""
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(Peer(target.port))
            for number in range(1, 401, 2):
                peer.send(call(number))
        time.sleep(1)


def large_answers_that_nobody_reads(target: Target) -> None:
    """40 MiB each, of a hundred callers."""
    (authorization,) = bearer(target.token)
    with ExitStack() as stack:
        callers = [
            stack.enter_context(closing(Deaf(target, wide_call(40), dict([authorization]))))
            for _ in range(100)
        ]
        refused = [caller.refusal() for caller in callers]
        assert {each["grpc-status"] for each in refused if each} == {"8"}
        assert not all(refused)
        time.sleep(2)


def overload(target: Target) -> None:
    """Three thousand calls at once of what takes some milliseconds."""
    request = infer_request("slow", {"turns": np.array(2000)}).SerializeToString()
    with ExitStack() as stack:
        ended: list[Any] = []
        for _ in range(6):
            stub = stack.enter_context(target.stub())
            send: Any = stub.channel.unary_unary(f"/{INFER}")
            ended += [
                send.future(request, timeout=3, metadata=bearer(target.token)) for _ in range(500)
            ]
        codes = {each.code() for each in ended}
    assert codes <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }


def failed_logins(target: Target) -> None:
    """Guesses of a token, one after another from many connections."""
    guesser = Target(target.port, target.root, "fp_guess")

    def guess(_: int) -> set[grpc.StatusCode]:
        with guesser.stub() as stub:
            return {guesser.outcome(stub, INFER, b"") for _ in range(100)}

    with ThreadPoolExecutor(8) as pool:
        for codes in pool.map(guess, range(16)):
            assert codes == {grpc.StatusCode.UNAUTHENTICATED}


def forty_loads(target: Target) -> None:
    """Loads of a model that takes its whole trial, all at once, some of them given up."""
    folder = target.root / "long" / "1"
    folder.mkdir(parents=True)
    HARMFUL["loads long"](folder)
    body = pb.RepositoryModelLoadRequest(model_name="long").SerializeToString()
    method = "inference.GRPCInferenceService/RepositoryModelLoad"
    with target.stub() as stub, ThreadPoolExecutor(40) as pool:
        times = [1.0 if number % 2 else 30.0 for number in range(40)]
        codes = pool.map(lambda s: target.outcome(stub, method, body, timeout=s), times)
        assert grpc.StatusCode.OK not in set(codes)
    shutil.rmtree(folder.parent)


def harmful_files(target: Target) -> None:
    """Every harmful twin in the repository at once."""
    folders = []
    for number, make in enumerate(HARMFUL.values()):
        folder = target.root / f"harmful_{number}" / "1"
        folder.mkdir(parents=True)
        make(folder)
        folders.append(folder.parent)
    index = pb.RepositoryIndexRequest()
    with target.stub() as stub:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            answer = stub.call(
                "RepositoryIndex", index, pb.RepositoryIndexResponse, metadata=bearer(target.token)
            )
            states = {m.name: m.state for m in answer.models if m.name.startswith("harmful")}
            if len(states) == len(folders) and set(states.values()) == {"UNAVAILABLE"}:
                break
            time.sleep(0.5)
        else:
            raise AssertionError(states)
    for folder in folders:
        shutil.rmtree(folder)


def a_large_file(target: Target) -> None:
    """309 MiB: below the limit of a file, and more than fits three times."""
    size = 9000
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((size, size), np.float32)
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", "FP32", ["n", size])],
        [tensor("y", "FP32", ["n", size])],
        constants={"w": weights},
    )
    beside = target.root.parent / "large.onnx"
    save(model, beside)
    del model, weights
    folder = target.root / "large" / "1"
    folder.mkdir(parents=True)
    beside.rename(folder / "model.onnx")
    with target.stub() as stub:
        deadline = time.monotonic() + 120
        state = ""
        while state not in ("READY", "UNAVAILABLE") and time.monotonic() < deadline:
            answer = stub.call(
                "RepositoryIndex",
                pb.RepositoryIndexRequest(),
                pb.RepositoryIndexResponse,
                metadata=bearer(target.token),
            )
            found = [each for each in answer.models if each.name == "large"]
            state = found[0].state if found else ""
            time.sleep(0.3)
        assert state in ("READY", "UNAVAILABLE"), state
        print(f"    a file of 309 MiB is {state} {found[0].reason}")
    shutil.rmtree(folder.parent)


def rows_that_multiply(target: Target) -> None:
    """Rows of which each is computed with each other one: 10,000 rows are 400 MB of products."""
    rows = np.zeros((100_000, 1), np.float32)
    body = infer_request("squares", {"x": rows}).SerializeToString()
    with target.stub() as stub:
        code = target.outcome(stub, INFER, body)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED), code


KINDS: tuple[Callable[[Target], None], ...] = (
    many_empty_fields,
    many_empty_fields_of_any_rpc,
    zipped_zeros,
    silent_connections,
    resets,
    calls_that_nobody_reads,
    large_answers_that_nobody_reads,
    overload,
    failed_logins,
    forty_loads,
    harmful_files,
    a_large_file,
    rows_that_multiply,
)


def squares() -> Any:
    """The products of all pairs of rows, summed: of as many elements as rows squared."""
    return build(
        [
            helper.make_node("Transpose", ["x"], ["t"]),
            helper.make_node("MatMul", ["x", "t"], ["products"]),
            helper.make_node("ReduceSum", ["products", "axis"], ["y"], keepdims=1),
        ],
        [tensor("x", "FP32", ["n", 1])],
        [tensor("y", "FP32", ["n", 1])],
        constants={"axis": np.array([1])},
    )


@contextmanager
def served(root: Path, group: MemoryCgroup, transport: Transport) -> Iterator[tuple[Target, int]]:
    models = root / "models"
    for name, model in {
        "linear": onnx_files.linear(),
        "slow": onnx_files.slow(),
        "squares": squares(),
        "wide": onnx_files.wide(),
    }.items():
        save(model, models / name / "1" / "model.onnx")
    new = new_token("tests", ["*"], list(Action))
    tokens = root / "tokens"
    tokens.write_text(new.line + "\n")
    tokens.chmod(0o600)
    command: list[str | Path] = [sys.executable, "-m", "forwardpass.cli", "serve", models]
    command += ["--port", "0", "--transport", str(transport), "--tokens", tokens]
    command += ["--general-models", "--model-control", "--drain-s", "0", "--trial-s", "2"]
    command += ["--trial-memory-bytes", str(TRIAL_BYTES)]
    log = root / "log"
    with (
        log.open("wb") as errors,
        group.popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            line = next(line for line in process.stdout or () if "ready on " in line)
            port = int(line.split("ready on ", 1)[1].split()[0].rpartition(":")[2])
            yield Target(port, models, new.token), process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            print(log.read_text()[-4000:])


@pytest.mark.parametrize("transport", Transport, ids=str)
def test_whatever_is_done_to_it_others_are_answered_and_it_lives(
    transport: Transport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        stack.enter_context(capsys.disabled())
        group = stack.enter_context(
            memory_cgroup(MEMORY_BYTES, f"forwardpass-hostile-{os.getpid()}", needed=False)
        )
        where = "in a cgroup of 1 GiB" if group.folder else "WITHOUT A CGROUP: NONE COULD BE MADE"
        print(f"\nover {transport}, {where}")
        target, pid = stack.enter_context(served(tmp_path, group, transport))
        bystander = Bystander(target.port, target.token)
        failed = []
        for kind in KINDS:
            started, cpu = time.monotonic(), cpu_s(pid)
            with bystander.watching():
                time.sleep(0.2)
                try:
                    kind(target)
                except Exception as error:
                    failed.append(f"{kind.__name__}: {error!r}")
            calls, health = sorted(bystander.calls_s), sorted(bystander.health_s)
            print(
                f"  {kind.__name__}: {time.monotonic() - started:.1f} s, "
                f"{cpu_s(pid) - cpu:.1f} s of CPU; others' calls {len(calls)}, p99 "
                f"{1e3 * calls[int(0.99 * len(calls))]:.0f} ms, slowest {1e3 * calls[-1]:.0f} ms; "
                f"health p99 {1e3 * health[int(0.99 * len(health))]:.0f} ms, slowest "
                f"{1e3 * health[-1]:.0f} ms; peak {peak_mib(pid):.0f} MiB"
            )
            failed += [f"{kind.__name__}, others: {error!r}" for error in bystander.failures]
            bystander.failures.clear()
            assert Path(f"/proc/{pid}").exists(), kind.__name__
        with suppress(OSError):
            threads = len(os.listdir(f"/proc/{pid}/task"))
            print(
                f"  at the end: {threads} threads, {len(children(pid))} other processes; "
                f"{bystander.again} calls made again"
            )
        assert failed == []
        assert peak_mib(pid) < MEMORY_BYTES / 2**20
        assert group.killed == 0
