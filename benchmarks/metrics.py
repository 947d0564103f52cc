"""What metrics cost a call: one server with them and one without, side by side in one run.

Usage: python -m benchmarks.metrics [--turns 20] [--calls 2000] [--transport asyncio grpcio]

Both servers have tuned their models alike, or they would not do the same work: one that has not
is started anew. The server with metrics is scraped every second meanwhile, as Prometheus would
every 15 seconds. CPU is the server process' own, in user and kernel mode. The two take turns, each
first in every second pair; the ratio of the least figures is that of turns which nothing else
disturbed. What the counting itself takes is measured apart, in this process, where it is all that
runs, with as many calls together as the server with metrics had in a run: on a machine that others
use, that is the figure to trust.
"""

import argparse
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from threading import Event, Thread

import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import Caller
from benchmarks.networks import NETWORKS
from benchmarks.server_process import ServerProcess
from forwardpass.models import Input, Network, publish
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.engine.drift import Drift
from forwardpass.server.engine.statistics import Statistics

CASES = (("small", 1), ("small", 64), ("large", 64))
"""Network, rows a call."""
CALLERS = {"grpcio": (8, 4), "asyncio": (8, 32)}
"""For each transport: connections, and streams of each."""
CALLS = {
    ("grpcio", "small", 1): 1.0,
    ("grpcio", "small", 64): 1.0,
    ("grpcio", "large", 64): 0.3,
    ("asyncio", "small", 1): 60.0,
    ("asyncio", "small", 64): 20.0,
    ("asyncio", "large", 64): 0.3,
}
"""Of the calls asked for: CPU is told in steps of 10 ms, so cheap calls have to be many."""
METRICS_PORT = 19_464
LOW, HIGH = -3.0, 3.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--transport", nargs="+", choices=CALLERS, default=list(CALLERS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for network in NETWORKS.values():
            publish(_with_range(network), models)
        for transport in options.transport:
            _measure(transport, models, options.turns, options.calls, Path(folder))


def _measure(transport: str, models: Path, turns: int, calls: int, folder: Path) -> None:
    """Measure over one transport, and print."""
    serve: tuple[str | Path, ...] = ("-m", "forwardpass.cli", "serve", models, "--port", "0")
    serve = (*serve, "--drain-s", "0", "--transport", transport)
    with ExitStack() as stack:
        without = stack.enter_context(ServerProcess(*serve))
        watched = (*serve, "--metrics-port", str(METRICS_PORT))
        servers = {"without": without, "with": _tuned_alike(without, watched, stack)}
        end = Event()
        scraper = Thread(target=_scrape, args=(end,), daemon=True)
        scraper.start()
        for network, rows in CASES:
            size = NETWORKS[network].input.size
            x = np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)
            count = int(calls * CALLS[transport, network, rows])
            cpu_us: dict[str, list[float]] = {name: [] for name in servers}
            before = _answered_and_ran(network)
            for turn in range(-1, turns):
                for name in sorted(servers, reverse=turn % 2 == 0):
                    caller = Caller(servers[name].target, network, x, folder)
                    used = _cpu_us(servers[name], caller, count, *CALLERS[transport])
                    if turn >= 0:  # the first turn warms up
                        cpu_us[name].append(used)
            answered, ran = np.subtract(_answered_and_ran(network), before)
            together = max(1, round(answered / ran))
            counting_us = _counting_us(x, together, one_by_one=transport == "grpcio")
            print(f"{transport}, {network}, {rows} rows, {together} calls a run:", end=" ")
            _print(cpu_us, counting_us)
        end.set()
        scraper.join()


def _print(cpu_us: dict[str, list[float]], counting_us: float) -> None:
    least = {name: min(seen) for name, seen in cpu_us.items()}
    pairs = zip(cpu_us["with"], cpu_us["without"], strict=True)
    print(
        f"{least['without']:.1f} us a call without metrics, {least['with']:.1f} us with: "
        f"ratio {least['with'] / least['without']:.3f}, "
        f"median ratio of the turns {median(one / other for one, other in pairs):.3f}; "
        f"counting alone {counting_us:.2f} us, {counting_us / least['without']:.2%}",
        flush=True,
    )


def _tuned_alike(
    other: ServerProcess, arguments: tuple[str | Path, ...], stack: ExitStack
) -> ServerProcess:
    """Start a server until its models run as many rows together as the other's."""
    for _ in range(20):
        with ExitStack() as attempt:
            server = attempt.enter_context(ServerProcess(*arguments))
            if _max_rows(server) == _max_rows(other):
                stack.enter_context(attempt.pop_all())
                return server
    raise RuntimeError("no two starts of 20 were tuned alike: the machine is too busy to compare")


def _max_rows(server: ServerProcess) -> list[int]:
    """Return how many rows each network runs together at most, as the server found out."""
    with grpc.insecure_channel(server.target) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelConfig"
        )
        configs = [
            pb.ModelConfigResponse.FromString(
                ask(pb.ModelConfigRequest(name=name).SerializeToString(), timeout=30)
            )
            for name, _ in CASES
        ]
    return [reply.config.max_batch_size for reply in configs]


def _with_range(network: Network) -> Network:
    size = network.input.size
    source = Input(size, low=np.full(size, LOW), high=np.full(size, HIGH))
    return Network(source, network.layers, network.outputs, network.name)


def _cpu_us(server: ServerProcess, caller: Caller, calls: int, *callers: int) -> float:
    connections, streams = callers
    before = server.cpu_s()
    caller.run(calls, connections=connections, streams=streams)
    return (server.cpu_s() - before) / calls * 1e6


def _counting_us(x: np.ndarray, together: int, *, one_by_one: bool) -> float:
    """Count and look at calls of these rows, so many in each run, as the server does.

    one_by_one: Whether each call has an answer of its own, as it has where threads wait for it.
    """
    size = x.shape[1]
    columns = {"x": ColumnNames(low=(LOW,) * size, high=(HIGH,) * size)}
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, size), symbols=("batch", None))
    statistics, drift = Statistics(), Drift([spec], columns)
    batch = np.concatenate([x] * together)
    portions = [1] * together if one_by_one else [together]
    runs = max(200, 20_000 // together)
    times = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(runs):
            drift.look({"x": batch})
            statistics.ran(len(batch), 1000, 10_000, 1000)
            for calls in portions:
                statistics.answered(
                    calls * len(x),
                    calls * 5000,
                    calls * 1000,
                    calls * 10_000,
                    calls * 5000,
                    123_456_789_012,
                    calls=calls,
                )
        times.append((time.process_time() - started) / (runs * together) * 1e6)
    return min(times)


def _answered_and_ran(model: str) -> tuple[float, float]:
    """Return how many calls of a model the server with metrics answered, and in how many runs."""
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(_metrics())
        for sample in family.samples
        if sample.labels.get("model") == model and sample.labels.get("code", "OK") == "OK"
    }
    return samples["forwardpass_calls_total"], samples["forwardpass_batch_rows_count"]


def _scrape(end: Event) -> None:
    while not end.wait(1.0):
        _metrics()


def _metrics() -> str:
    url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
    with urllib.request.urlopen(url, timeout=30) as page:
        return str(page.read().decode())


if __name__ == "__main__":
    main()
