"""Many models in one process, and thousands of reloads under load: the figures are printed."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest
from support.proc import resident_mib
from support.rpc import Stub
from support.versions import Answer, answering, ask, label, put, remove

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WIDTH = 48
"""Makes a model of 10 kB."""

PROGRAM = """
import sys, time
from pathlib import Path

from forwardpass.server.app import Server
from forwardpass.server.config import Config

server = Server(Config(models=Path(sys.argv[1]), port=0))
started = time.perf_counter()
server.start()
print(server.port, time.perf_counter() - started, flush=True)
for name in sys.stdin:
    server.lifecycle.load(name.strip())
    print(flush=True)
"""


@dataclass(frozen=True)
class Child:
    """A server in a process of its own, which is told by name what to load."""

    process: subprocess.Popen[str]
    port: int
    load_s: float
    """How long it took to load what was there."""

    def load(self, name: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "\n"

    def resident_mib(self) -> float:
        return resident_mib(self.process.pid)

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@contextmanager
def child(root: Path) -> Iterator[Child]:
    command = [sys.executable, "-c", PROGRAM, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            port, load_s = process.stdout.readline().split()
            yield Child(process, int(port), float(load_s))
        finally:
            process.kill()


def write(root: Path, name: str, version: int, number: float) -> int:
    """Publish a model of 10 kB; return its size in bytes."""
    path = put(root, name, version, answering(number, WIDTH).SerializeToString())
    return path.stat().st_size


def call(stub: Stub, name: str, version: str = "") -> Answer:
    return ask(stub, name, version, WIDTH)


MODELS = 300
ROUNDS = 20


def test_300_models_in_one_process_answer_as_fast_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    write(one, "m0", 1, 0)
    size = max(write(many, f"m{index}", 1, index) for index in range(MODELS))
    with (
        child(one) as small,
        child(many) as large,
        Stub(small.port) as small_stub,
        Stub(large.port) as large_stub,
    ):
        per_model_kib = (large.resident_mib() - small.resident_mib()) * 1024 / (MODELS - 1)
        threads = small.threads(), large.threads()
        small_us: list[float] = []
        large_us: list[float] = []
        # The first round makes what is kept for each model; it is not counted.
        for round_ in range(ROUNDS + 1):
            for index in range(MODELS):
                started = time.perf_counter()
                assert call(small_stub, "m0") == (1, 0)
                between = time.perf_counter()
                assert call(large_stub, f"m{index}") == (1, index)
                ended = time.perf_counter()
                if round_:
                    small_us.append((between - started) * 1e6)
                    large_us.append((ended - between) * 1e6)
        after_mib = large.resident_mib()
    ratio = median(large_us) / median(small_us)
    with capsys.disabled():
        print(
            f"\n{MODELS} models of {size} bytes: loaded in {large.load_s:.2f} s "
            f"({large.load_s / MODELS * 1e3:.1f} ms each), {per_model_kib:.0f} KiB each, "
            f"threads {threads[1]} ({threads[0]} with one model), {after_mib:.0f} MiB in all; "
            f"p50 of a call {median(large_us):.0f} us against {median(small_us):.0f}: {ratio:.2f}"
        )
    assert ratio <= 1.3
    assert threads[1] < threads[0] + 10
    assert large.load_s < 30


RELOADS = 2000
SETTLED = 200
CALLERS = 4


@dataclass
class Caller:
    """Calls all the time, and keeps what was wrong."""

    stub: Stub
    name: str
    version: str = ""
    wrong: list[object] = field(default_factory=list)
    us: list[float] = field(default_factory=list)
    """The time of each call."""

    def run(self, end: threading.Event) -> None:
        last = 0.0
        while not end.is_set():
            started = time.perf_counter()
            try:
                answer = call(self.stub, self.name, self.version)
            except Exception as error:
                self.wrong.append(error)
                continue
            self.us.append((time.perf_counter() - started) * 1e6)
            if self.name == "content":
                # Replaced by larger and larger numbers.
                right = answer.version == 1 and answer.number >= last
            else:
                right = answer.number == answer.version
            if not right:
                self.wrong.append((answer, last))
            last = answer.number


@contextmanager
def called(callers: list[Caller]) -> Iterator[None]:
    end = threading.Event()
    threads = [threading.Thread(target=caller.run, args=[end]) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_2000_reloads_under_load_fail_no_call_and_keep_no_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "versions", 1, 1)
    write(tmp_path, "content", 1, 0)
    mib: list[float] = []
    with child(tmp_path) as server, Stub(server.port) as stub:
        callers = [Caller(stub, name) for name in ("versions", "content") * (CALLERS // 2)]
        started = time.monotonic()
        with called(callers):
            for number in range(2, RELOADS + 2):
                if number % 2:
                    write(tmp_path, "content", 1, number)
                    server.load("content")
                else:
                    # One comes, one goes: the one before is there until the next reload.
                    write(tmp_path, "versions", number, number)
                    if number > 4:
                        remove(tmp_path, "versions", number - 4)
                    server.load("versions")
                mib.append(server.resident_mib())
        took_s = time.monotonic() - started
        threads = server.threads()
    calls = [us for caller in callers for us in caller.us]
    before, after = mib[SETTLED], mib[SETTLED:]
    tenth = [len(caller.us) // 10 for caller in callers]
    first = median(us for caller, n in zip(callers, tenth, strict=True) for us in caller.us[:n])
    last = median(us for caller, n in zip(callers, tenth, strict=True) for us in caller.us[-n:])
    with capsys.disabled():
        print(
            f"\n{RELOADS} reloads in {took_s:.0f} s under {len(calls)} calls of {CALLERS} threads: "
            f"{sum(len(caller.wrong) for caller in callers)} failed or wrong; "
            f"{before:.0f} MiB after {SETTLED}, then {min(after):.0f} to {max(after):.0f}, "
            f"{after[-1]:.0f} at the end; {threads} threads; "
            f"p50 of a call {first:.0f} us in the first tenth, {last:.0f} us in the last"
        )
    assert [caller.wrong for caller in callers] == [[]] * CALLERS
    assert min(len(caller.us) for caller in callers) > RELOADS
    assert max(after) <= 1.1 * before
    assert last <= 2 * first


MOVES = 300


def test_a_label_moved_300_times_under_load_fails_no_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        write(tmp_path, "versions", number, number)
    label(tmp_path, "versions", {"stable": 1})
    with child(tmp_path) as server, Stub(server.port) as stub:
        callers = [Caller(stub, "versions", "stable") for _ in range(CALLERS)]
        with called(callers):
            for move in range(MOVES):
                label(tmp_path, "versions", {"stable": 2 - move % 2})
                server.load("versions")
                assert call(stub, "versions", "stable").version == 2 - move % 2
    with capsys.disabled():
        print(f"\n{MOVES} moves under {sum(len(caller.us) for caller in callers)} calls")
    assert [caller.wrong for caller in callers] == [[]] * CALLERS
