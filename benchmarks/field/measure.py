"""One server, measured: from its start through every case of a grid to its end."""

import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.field.grid import AT_OURS, CLOSED, OPEN, Case, Grid
from benchmarks.field.open_loop import Outcome, poisson, send
from benchmarks.field.peers import ALONE, ECHO, FRAMES, OURS, Peer, free_port
from benchmarks.field.request import (
    Close,
    Exactly,
    Expected,
    expected,
    nearly,
    request,
    rows,
    session,
)
from benchmarks.load import METHOD, ClosedLoop
from benchmarks.server_process import Family, PinnedProcess

Record = dict[str, Any]
"""One measurement, as it stands in the JSON file."""

_START_S = 120.0
_STARTS = 3
"""Least cold starts of a server in a round, as long as they take no more than `_STARTS_S`."""
_STARTS_S = 4.0
_SAMPLES_PER_S, _SAMPLED = 20.0, 0.05
"""Answers that are compared meanwhile: so many a second, but at most this share of all, since they
take time of the server's that nobody counts."""
_CALLS_PER_CONNECTION = 64
"""Minimum, where a case says over how many connections: opening one costs as much as ten calls."""
_TIMEOUT_S = 60.0
_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""A checkout keeps what it compiled, too, as pip does: nobody is measured compiling."""


class Trial:
    """A case's request, and what has to come back for it."""

    def __init__(self, peer: Peer, file: Path, case: Case) -> None:
        x = rows(case.network, case.rows)
        self.message = request(case.network, x)
        self.expected: Exactly | Close | Expected
        if peer.name in (ECHO, FRAMES):
            self.expected = Exactly(self.message if peer.name == ECHO else b"")
        else:
            self.expected = (nearly if peer.foreign else expected)(file, x)


class Running:
    """A server that serves a folder of models; a context manager."""

    def __init__(self, peer: Peer, models: Path, folder: Path, first: Trial) -> None:
        """Start it, and wait for its first right answer; `start_s` is how long that took.

        Raises RuntimeError, with the end of its log, if it does not come.
        """
        self.log = folder / "log"
        self._process: PinnedProcess | None = None
        if peer.foreign is not None:
            host, port, pid = peer.foreign
            self.address = (host, port)
            self.family = Family(pid)
            self._began = time.perf_counter()
            self._wait(first)
            return
        port = free_port()
        started = peer.start(models, port, folder)
        self.address = ("127.0.0.1", port)
        with self.log.open("wb") as out:
            env = {**os.environ, **_BYTECODE, **started.env}
            self._process = PinnedProcess(started.command, core=peer.cores, env=env, out=out)
        self.family = self._process
        self._began = self._process.started
        try:
            self._wait(first)
        except BaseException:
            self.__exit__()
            raise
        self.start_s = time.perf_counter() - self._began
        self.start_cpu_s = self.family.cpu_s()

    def _wait(self, first: Trial) -> None:
        last: object = "no answer"
        while time.perf_counter() - self._began < _START_S:
            if self._process is not None and self._process.process.poll() is not None:
                break
            try:
                reply = answer(self.address, first.message)
            except (OSError, grpc.RpcError) as error:
                last = error
                time.sleep(0.005)
                continue
            if first.expected.right(reply):
                return
            last = "a wrong answer"
            time.sleep(0.005)
        said = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
        raise RuntimeError(f"not ready: {last}\n{said}")

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.__exit__(None, None, None)


def answer(address: tuple[str, int], message: bytes) -> bytes:
    """Call once, from grpcio, over a connection that is known to open.

    Raises OSError if nothing listens, grpc.RpcError if the call fails.
    """
    socket.create_connection(address, 1).close()
    target = f"{address[0]}:{address[1]}"
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options=options) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        return infer(message, timeout=_TIMEOUT_S)


def measure(
    peer: Peer,
    files: dict[str, Path],
    grid: Grid,
    round_: int,
    say: Callable[[str], None],
    ours: dict[str, float],
) -> list[Record]:
    """Start a server cold with one model, then with all; measure every case; return the records.

    ours: Our calls a second by network, from the first round on; filled here.
    """
    models = next(iter(files.values())).parents[2]
    records: list[Record] = []

    def record(kind: str, **figures: Any) -> None:
        records.append({"kind": kind, "server": peer.name, "round": round_, **figures})

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        try:
            first = Trial(peer, files["small"], Case("small", 1))
            one, home = folder / "one", folder / "home of one"
            _copy(files["small"], one)
            begin = time.perf_counter()
            # Only those on one core are compared, and a foreign server has started before.
            starts = 0 if peer.foreign or peer.cores != "0" else max(grid.repeats, _STARTS)
            for repeat in range(starts):
                # A slow starter is not started again and again.
                if repeat and time.perf_counter() - begin > _STARTS_S:
                    break
                with Running(peer, one, _emptied(home), first) as server:
                    record(
                        "start",
                        repeat=repeat,
                        start_s=server.start_s,
                        start_cpu_s=server.start_cpu_s,
                        resident_bytes=server.family.resident_bytes(),
                    )
            with Running(peer, models, _emptied(folder / "home"), first) as server:
                _cases(server, peer, files, grid, folder, record, say, ours)
                record("after load", resident_bytes=server.family.resident_bytes())
        except (RuntimeError, OSError) as error:
            say(f"{peer.name}: {error}")
            record("failure", error=str(error))
    return records


def measure_alone(files: dict[str, Path], grid: Grid, round_: int) -> list[Record]:
    """Run every request of a grid on onnxruntime in this process: the limit of any server."""
    records = []
    for network, count in dict.fromkeys((case.network, case.rows) for case in grid.closed):
        run, feeds = session(files[network]).run, {"x": rows(network, count)}
        for repeat in range(grid.repeats):
            times = [time.perf_counter()]
            cpu_before = time.process_time()
            while times[-1] - times[0] < grid.seconds / 2:
                run(None, feeds)
                times.append(time.perf_counter())
            calls = len(times) - 1
            records.append(
                {
                    "kind": "case",
                    "server": ALONE,
                    "round": round_,
                    **asdict(Case(network, count, callers=1)),
                    "repeat": repeat,
                    "calls_per_s": calls / (times[-1] - times[0]),
                    "cpu_us": (time.process_time() - cpu_before) / calls * 1e6,
                    **_percentiles(list(np.diff(times))),
                    "calls": calls,
                    "errors": {},
                }
            )
    return records


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _copy(file: Path, models: Path) -> None:
    """Make a folder of models that holds one."""
    target = models / file.relative_to(file.parents[2])
    target.parent.mkdir(parents=True)
    target.write_bytes(file.read_bytes())


def _cases(
    server: Running,
    peer: Peer,
    files: dict[str, Path],
    grid: Grid,
    folder: Path,
    record: Callable[..., None],
    say: Callable[[str], None],
    ours: dict[str, float],
) -> None:
    # One rate for the whole run.
    fixed = dict(ours)
    cases = (*grid.closed, *grid.open) if peer.cores == "0" else grid.on_two_cores
    trials: dict[tuple[str, int], Trial] = {}
    most: dict[tuple[str, int], float] = {}
    for repeat in range(grid.repeats):
        for case in cases:
            key = case.network, case.rows
            if key not in trials:
                trials[key] = Trial(peer, files[case.network], case)
            try:
                if case.load == AT_OURS and most[key] < 0.75 * ours.get(case.network, 1e9):
                    # It could not keep up.
                    continue
                if case.load != CLOSED:
                    rate = (
                        ours[case.network] / 2
                        if case.load == AT_OURS
                        else most[key] * OPEN[case.load]
                    )
                    seconds = max(grid.open_seconds, 100 / rate)
                    figures = _open(server, trials[key], rate, seconds, repeat)
                else:
                    figures = _closed(server, trials[key], case, grid.seconds, folder)
                    most[key] = max(most.get(key, 0.0), figures["calls_per_s"])
                    if peer.name == OURS and case.rows == 1 and case.network not in fixed:
                        ours[case.network] = most[key]
            except (RuntimeError, OSError, KeyError) as error:
                say(f"{peer.name}, {case}: {error!r}")
                figures = {"errors": {str(error): 1}}
            record("case", **asdict(case), repeat=repeat, **figures)


def _closed(server: Running, trial: Trial, case: Case, seconds: float, folder: Path) -> Record:
    """Load from as many callers as the case has, each with one call at a time."""
    loop = ClosedLoop(server.address, trial.message, folder)
    streams = case.callers // case.connections
    few = max(10, case.callers)
    calls, warm = few, loop.run(few, connections=case.connections, streams=streams)
    # A run of a few calls is mostly connections that are opened.
    while warm.seconds < seconds / 4:
        calls *= 4
        warm = loop.run(calls, connections=case.connections, streams=streams)
    calls = max(2 * few, int(warm.calls_per_s * seconds), _CALLS_PER_CONNECTION * case.over)
    samples_per_s = min(_SAMPLES_PER_S, _SAMPLED * warm.calls_per_s)
    cpu_before = server.family.cpu_s()
    sampled = Outcome()
    load = loop.run(
        calls,
        connections=case.connections,
        streams=streams,
        meanwhile=lambda running: _sample(server, trial, samples_per_s, running, sampled),
    )
    cpu_s = server.family.cpu_s() - cpu_before
    errors = Counter(sampled.errors)
    if not sampled.calls:
        errors["no answer was compared"] += 1
    if case_error := load.error(calls, len(answer(server.address, trial.message))):
        errors[case_error] += 1
    return {
        "calls_per_s": load.calls_per_s,
        "cpu_us": cpu_s / (calls + sampled.calls) * 1e6,
        **_percentiles(load.latencies_s),
        "calls": calls,
        "compared": sampled.calls,
        "errors": dict(errors),
    }


def _sample(
    server: Running, trial: Trial, per_s: float, running: Callable[[], bool], into: Outcome
) -> None:
    """Compare answers while the load runs: at once, and some a second from then on."""
    times = np.arange(0, _TIMEOUT_S, 1 / per_s)
    with suppress(ConnectionError):
        outcome = send(
            server.address,
            METHOD,
            trial.message,
            trial.expected.right,
            times,
            connections=1,
            while_=running,
            asleep=True,
        )
        into.calls, into.errors = outcome.calls, outcome.errors
        return
    into.errors["connection closed"] += 1


def _open(server: Running, trial: Trial, rate: float, seconds: float, seed: int) -> Record:
    """Load at a rate, come what may; every answer is compared."""
    cpu_before = server.family.cpu_s()
    times = poisson(rate, seconds, seed)
    outcome = send(server.address, METHOD, trial.message, trial.expected.right, times)
    cpu_s = server.family.cpu_s() - cpu_before
    return {
        "rate": rate,
        "cpu_us": cpu_s / outcome.calls * 1e6,
        **_percentiles(outcome.latencies_s),
        "late_p99_us": float(np.percentile(outcome.late_s, 99)) * 1e6,
        "calls": outcome.calls,
        "compared": outcome.calls,
        "errors": dict(outcome.errors),
    }


def _percentiles(latencies_s: list[float]) -> Record:
    if not latencies_s:
        return {}
    p50, p99 = np.percentile(latencies_s, [50, 99])
    return {"p50_us": float(p50) * 1e6, "p99_us": float(p99) * 1e6}
