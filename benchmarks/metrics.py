"""What metrics cost a call: one server with them and one without, side by side in one run.

Usage: python -m benchmarks.metrics [--repeats 9] [--calls 8000]

The server with metrics is scraped once a second meanwhile, as Prometheus would every 15 seconds.
CPU is the server process' own, in user and kernel mode.
"""

import argparse
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from threading import Event, Thread

import numpy as np

from benchmarks.load import Caller
from benchmarks.networks import NETWORKS
from benchmarks.server_process import ServerProcess
from forwardpass.models import Input, Network, publish

CASES = (("small", 1), ("small", 64), ("large", 64))
"""Network, rows a call."""
METRICS_PORT = 19_464


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--calls", type=int, default=8000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = Path(folder) / "models"
        for network in NETWORKS.values():
            publish(_with_range(network), models)
        serve = ("-m", "forwardpass.cli", "serve", models, "--port", "0", "--drain-s", "0")
        without = stack.enter_context(ServerProcess(*serve))
        watched = stack.enter_context(ServerProcess(*serve, "--metrics-port", str(METRICS_PORT)))
        end = Event()
        scraper = Thread(target=_scrape, args=(end,), daemon=True)
        scraper.start()
        for network, rows in CASES:
            size = NETWORKS[network].input.size
            x = np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)
            calls = max(300, options.calls // (1 if network == "small" else 10))
            cpu_us: dict[str, list[float]] = {"without": [], "with": []}
            for turn in range(options.repeats + 1):
                for name, server in (("without", without), ("with", watched)):
                    used = _cpu_us(server, network, x, calls, Path(folder))
                    if turn > 0:  # the first warms up
                        cpu_us[name].append(used)
            pairs = zip(cpu_us["with"], cpu_us["without"], strict=True)
            print(
                f"{network}, {rows} rows: {median(cpu_us['without']):.0f} us a call without, "
                f"{median(cpu_us['with']):.0f} us with metrics; median ratio "
                f"{median(one / other for one, other in pairs):.3f}"
            )
        end.set()
        scraper.join()


def _with_range(network: Network) -> Network:
    size = network.input.size
    source = Input(size, low=np.full(size, -3.0), high=np.full(size, 3.0))
    return Network(source, network.layers, network.outputs, network.name)


def _cpu_us(server: ServerProcess, model: str, x: np.ndarray, calls: int, folder: Path) -> float:
    caller = Caller(server.target, model, x, folder)
    before = server.cpu_s()
    caller.run(calls, connections=8, streams=4)
    return (server.cpu_s() - before) / calls * 1e6


def _scrape(end: Event) -> None:
    while not end.wait(1.0):
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30) as page:
            page.read()


if __name__ == "__main__":
    main()
