"""What metrics cost a call: one server with them and one without, side by side in one run.

Usage: python -m benchmarks.metrics [--turns 20] [--calls 2000]

Both servers have tuned their models alike, or they would not do the same work: one that has not
is started anew. The server with metrics is scraped every second meanwhile, as Prometheus would
every 15 seconds. CPU is the server process' own, in user and kernel mode. The two take turns, each
first in every second pair; the ratio of the least figures is that of turns which nothing else
disturbed. What the counting itself takes is measured apart, in this process, where it is all that
runs: on a machine that others use, that is the figure to trust.
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

from benchmarks.load import Caller
from benchmarks.networks import NETWORKS
from benchmarks.server_process import ServerProcess
from forwardpass.models import Input, Network, publish
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.drift import Drift
from forwardpass.server.statistics import Statistics

CASES = (("small", 1), ("small", 64), ("large", 64))
"""Network, rows a call."""
METRICS_PORT = 19_464
LOW, HIGH = -3.0, 3.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = Path(folder) / "models"
        for network in NETWORKS.values():
            publish(_with_range(network), models)
        serve = ("-m", "forwardpass.cli", "serve", models, "--port", "0", "--drain-s", "0")
        without = stack.enter_context(ServerProcess(*serve))
        watched = (*serve, "--metrics-port", str(METRICS_PORT))
        servers = {"without": without, "with": _tuned_alike(without, watched, stack)}
        end = Event()
        scraper = Thread(target=_scrape, args=(end,), daemon=True)
        scraper.start()
        for network, rows in CASES:
            size = NETWORKS[network].input.size
            x = np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)
            calls = options.calls // (1 if network == "small" else 3)
            cpu_us: dict[str, list[float]] = {name: [] for name in servers}
            for turn in range(-1, options.turns):
                for name in sorted(servers, reverse=turn % 2 == 0):
                    used = _cpu_us(servers[name], network, x, calls, Path(folder))
                    if turn >= 0:  # the first turn warms up
                        cpu_us[name].append(used)
            _print(network, rows, cpu_us, _counting_us(x))
        end.set()
        scraper.join()


def _print(network: str, rows: int, cpu_us: dict[str, list[float]], counting_us: float) -> None:
    least = {name: min(seen) for name, seen in cpu_us.items()}
    pairs = zip(cpu_us["with"], cpu_us["without"], strict=True)
    print(
        f"{network}, {rows} rows: {least['without']:.0f} us a call without metrics, "
        f"{least['with']:.0f} us with: ratio {least['with'] / least['without']:.3f}, "
        f"median ratio of the turns {median(one / other for one, other in pairs):.3f}; "
        f"counting alone {counting_us:.2f} us, {counting_us / least['without']:.2%}"
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
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelConfig")
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


def _cpu_us(server: ServerProcess, model: str, x: np.ndarray, calls: int, folder: Path) -> float:
    caller = Caller(server.target, model, x, folder)
    before = server.cpu_s()
    caller.run(calls, connections=8, streams=4)
    return (server.cpu_s() - before) / calls * 1e6


def _counting_us(x: np.ndarray) -> float:
    """Count and look at calls of these rows, each with a run of its own, as the server does."""
    size = x.shape[1]
    columns = {"x": ColumnNames(low=(LOW,) * size, high=(HIGH,) * size)}
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, size), symbols=("batch", None))
    statistics, drift = Statistics(), Drift([spec], columns)
    calls = 20_000 if x.size < 1000 else 2_000
    times = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(calls):
            drift.look({"x": x})
            statistics.ran(len(x), 1000, 10_000, 1000)
            statistics.answered(len(x), 5000, 1000, 10_000, 5000, 123_456_789_012)
        times.append((time.process_time() - started) / calls * 1e6)
    return min(times)


def _scrape(end: Event) -> None:
    while not end.wait(1.0):
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30) as page:
            page.read()


if __name__ == "__main__":
    main()
