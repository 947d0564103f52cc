"""Hours of load in minutes: memory stays where it was, and what happened is what was counted."""

import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.load import Caller
from benchmarks.networks import NETWORKS, publish_all
from benchmarks.server_process import ServerProcess
from support import onnx_files
from support.rpc import Stub
from support.served import GOOD
from support.versions import Answer, ask, put, remove
from support.wire import arrays, assert_same_bits, infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.config import Transport

CALLS = 500_000
ROUNDS = 20
# Rows a call -> its share of the calls.
MIX = {1: 0.70, 8: 0.15, 30: 0.10, 64: 0.04, 700: 0.01}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_over_half_a_million_calls_of_mixed_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_all(tmp_path / "models")
    rng = np.random.default_rng(0)
    command: list[str | Path] = ["-m", "forwardpass.cli", "serve", tmp_path / "models"]
    command += ["--port", "0"]
    with ServerProcess(*command, "--drain-s", "0") as server:
        callers = {}
        for rows in MIX:
            folder = tmp_path / str(rows)
            folder.mkdir()
            x = rng.standard_normal((rows, NETWORKS["small"].input.size))
            callers[rows] = Caller(server.target, "small", x, folder)
        memory = []
        for _ in range(ROUNDS):
            for rows, share in MIX.items():
                # Fails unless every call has its whole answer.
                callers[rows].run(int(CALLS * share / ROUNDS), connections=8, streams=4)
            memory.append(server.resident_bytes() / 2**20)
        threads = server.threads()
    with capsys.disabled():
        shown = " ".join(f"{mib:.0f}" for mib in memory)
        print(f"\n{CALLS:,} calls: resident MiB after each twentieth {shown}; {threads} threads")
    # A reading goes up and down by what the last large calls left, of which the heaps return some
    # or none: what grows does not come down again.
    assert median(memory[-5:]) <= 1.1 * memory[1]
    assert max(memory) <= 1.25 * memory[1]


MANY = 2_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_our_own_transports_memory_is_flat_over_two_million_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_all(tmp_path / "models")
    x = np.random.default_rng(0).standard_normal((1, NETWORKS["small"].input.size))
    command: list[str | Path] = ["-m", "forwardpass.cli", "serve", tmp_path / "models"]
    command += ["--port", "0"]
    with ServerProcess(*command, "--drain-s", "0", "--transport", "asyncio") as server:
        caller = Caller(server.target, "small", x, tmp_path)
        # Fails unless every call has its whole answer.
        caller.run(MANY // 10, connections=16, streams=16)
        early = server.resident_bytes() / 2**20
        load = caller.run(MANY - MANY // 10, connections=16, streams=16)
        late = server.resident_bytes() / 2**20
    with capsys.disabled():
        print(
            f"\n{MANY:,} calls over our own transport: resident {early:.1f} MiB after a tenth, "
            f"{late:.1f} at the end; {load.calls_per_s:,.0f} calls a second"
        )
    assert late <= 1.02 * early + 1


MIXED = {Transport.ASYNCIO: 1_000_000, Transport.GRPCIO: 100_000}
"""Calls of the load; grpcio takes fifteen times as long for one."""
METHOD = "/inference.GRPCInferenceService/ModelInfer"
BURST = 400
"""Calls at once of a model whose queue holds 64."""


class Troubles:
    """Callers of every kind, each in a thread, which note how each of their calls ended."""

    def __init__(self, port: int, token: str, root: Path) -> None:
        self.codes: Counter[str] = Counter()
        self.wrong: list[BaseException] = []
        self.reloads = 0
        self._port = port
        self._token: Any = (("authorization", f"Bearer {token}"),)
        self._root = root
        self._lock = threading.Lock()
        self._over = threading.Event()
        linear = GOOD["linear"].request()
        rows = infer_request("linear", {"x": np.zeros((1, 4), np.float32)})
        kinds: tuple[Callable[[Stub], None], ...] = (
            self._right,
            self._right,
            lambda stub: self._ends(
                stub, linear, "UNAUTHENTICATED", (("authorization", "Bearer no"),)
            ),
            lambda stub: self._ends(stub, linear, "UNAUTHENTICATED", ()),
            lambda stub: self._ends(stub, infer_request("none", {}), "NOT_FOUND"),
            lambda stub: self._ends(stub, rows, "INVALID_ARGUMENT"),
            lambda stub: self._ends(
                stub, b"\x0a\x06linear" + b"\x2a\x00" * 2**17, "INVALID_ARGUMENT"
            ),
            self._burst,
            self._reload,
        )
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End them; raises AssertionError if one hangs."""
        self._over.set()
        deadline = time.monotonic() + 60
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not [thread for thread in self._threads if thread.is_alive()]

    def _repeat(self, kind: Callable[[Stub], None]) -> None:
        try:
            with Stub(self._port) as stub:
                while not self._over.wait(0.01):
                    kind(stub)
        except BaseException as error:
            self.wrong.append(error)

    def _note(self, code: str, count: int = 1) -> None:
        with self._lock:
            self.codes[code] += count

    def _right(self, stub: Stub) -> None:
        got = arrays(stub.infer(GOOD["linear"].request(), metadata=self._token))
        for name, expected in GOOD["linear"].answer.items():
            assert_same_bits(got[name], expected)

    def _ends(
        self,
        stub: Stub,
        request: pb.ModelInferRequest | bytes,
        expected: str,
        metadata: Any = None,
    ) -> None:
        refusal = stub.refusal(
            "ModelInfer", request, metadata=self._token if metadata is None else metadata
        )
        assert refusal.code.name == expected, refusal
        self._note(expected)

    def _burst(self, stub: Stub) -> None:
        request = infer_request("slow", {"turns": np.array(100)}).SerializeToString()
        send: Any = stub.channel.unary_unary(METHOD)
        calls = [send.future(request, timeout=60, metadata=self._token) for _ in range(BURST)]
        for call in calls:
            code = call.code()
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED), call
            if code is not grpc.StatusCode.OK:
                self._note(code.name)

    def _reload(self, stub: Stub) -> None:
        self.reloads += 1
        number = self.reloads
        put(self._root, "m", number, number)
        request = pb.RepositoryModelLoadRequest(model_name="m")
        stub.call(
            "RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, metadata=self._token
        )
        assert ask(stub, "m", metadata=self._token) == Answer(number, number)
        if number > 1:
            remove(self._root, "m", number - 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("transport", Transport, ids=str)
def test_every_trouble_at_once_is_counted_once_and_leaves_nothing(
    transport: Transport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "models"
    publish_all(root)
    onnx_files.save(onnx_files.linear(), root / "linear" / "1" / "model.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow" / "1" / "model.onnx")
    new = new_token("soak", ["*"], list(Action))
    tokens = tmp_path / "tokens"
    tokens.write_text(new.line + "\n")
    tokens.chmod(0o600)
    x = np.random.default_rng(0).standard_normal((1, NETWORKS["small"].input.size))
    command: list[str | Path] = ["-m", "forwardpass.cli", "serve", root, "--port", "0"]
    command += ["--drain-s", "0", "--transport", str(transport), "--tokens", tokens]
    command += ["--general-models", "--model-control", "--max-queue", "64", "--metrics-port", "0"]
    with ServerProcess(*command) as server:
        port = int(server.target.rpartition(":")[2])
        metrics = f"http://127.0.0.1:{metrics_port(server.process.pid, port)}/metrics"
        fields = [f"authorization: Bearer {new.token}"]
        caller = Caller(server.target, "small", x, tmp_path, fields)
        memory = []
        troubles = Troubles(port, new.token, root)
        for _ in range(ROUNDS):
            # Fails unless every call has its whole answer.
            caller.run(MIXED[transport] // ROUNDS, connections=8, streams=8)
            memory.append(server.resident_bytes() / 2**20)
        troubles.end()
        with urllib.request.urlopen(metrics) as answer:
            counted = refusals(answer.read().decode())
    with capsys.disabled():
        shown = " ".join(f"{mib:.0f}" for mib in memory)
        print(
            f"\n{transport}: {MIXED[transport]:,} calls, {troubles.reloads} reloads, refused "
            f"{dict(troubles.codes)}, counted {dict(counted)}; resident MiB {shown}"
        )
    assert troubles.wrong == []
    assert counted == troubles.codes
    assert min(troubles.codes.values()) > 0
    assert troubles.reloads > 20
    assert median(memory[-5:]) <= 1.1 * memory[4]


def metrics_port(pid: int, port: int) -> int:
    """The other port that a process listens on."""
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (target := str(link.readlink())).startswith("socket:")
    }
    listening = {
        int(fields[1].rpartition(":")[2], 16)
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and fields[9] in inodes
    }
    (other,) = listening - {port}
    return other


def refusals(text: str) -> Counter[str]:
    """Read how many calls ended with each code but OK."""
    counted: Counter[str] = Counter()
    for code, value in re.findall(
        r'^forwardpass_calls_total\{.*code="(\w+)".*\} (\S+)$', text, re.M
    ):
        counted[code] += int(float(value))
    del counted["OK"]
    return +counted
