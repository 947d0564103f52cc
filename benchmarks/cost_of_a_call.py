"""What a call costs: a bare echo, a naive server, and ours over each transport, in one run.

Usage: python -m benchmarks.cost_of_a_call [--repeats 3] [--json FILE]

The servers share core 0 one after the other in turns, h2load has core 1. Ours count for metrics,
and every call brings a request id, which goes back. Figures are medians; CPU is what the server's
process used, in user and kernel mode, per call.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load import Caller
from benchmarks.networks import NETWORKS, publish_all
from benchmarks.server_process import ServerProcess

CASES = (
    # network, rows a call, callers (connections x streams), calls
    ("small", 1, (1, 1), 6_000),
    ("small", 1, (8, 1), 12_000),
    ("small", 1, (8, 4), 16_000),
    ("small", 1, (8, 32), 24_000),
    ("small", 1, (500, 1), 24_000),
    ("small", 64, (8, 4), 8_000),
    ("large", 64, (8, 4), 1_500),
    ("large", 1024, (1, 2), 150),
)

TRANSPORTS = ("asyncio", "grpcio")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = publish_all(Path(folder) / "models")
        servers: dict[tuple[str, str], ServerProcess] = {}
        for name in ("small", "large"):
            for transport in TRANSPORTS:
                servers[transport, name] = ServerProcess(*_ours(files[name], transport))
            servers["echo", name] = ServerProcess("-m", "benchmarks.servers.echo")
            models = files[name].parents[2]
            servers["naive", name] = ServerProcess("-m", "benchmarks.servers.naive", models)
        for server in servers.values():
            stack.enter_context(server)
        for network, rows, callers, calls in CASES:
            figures = {
                server: _measure(
                    servers[server, network], network, rows, callers, calls, Path(folder)
                )
                for server in ("echo", "naive", *TRANSPORTS)
            }
            measured = _repeat(figures, options.repeats)
            measured["bare"] = _bare(files[network], network, rows)
            results.append(
                {"network": network, "rows": rows, "callers": "{} x {}".format(*callers)} | measured
            )
    Console(width=110).print(_table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


def _ours(file: Path, transport: str) -> list[str | Path]:
    options = ("--port", "0", "--drain-s", "0", "--transport", transport, "--metrics-port", "0")
    return ["-m", "forwardpass.cli", "serve", file.parents[2], *options]


def _measure(
    server: ServerProcess,
    network: str,
    rows: int,
    callers: tuple[int, int],
    calls: int,
    folder: Path,
) -> Callable[[], tuple[float, float]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, NETWORKS[network].input.size)).astype(np.float32)
    caller = Caller(server.target, network, x, folder, ["x-request-id: benchmark-1"])
    connections, streams = callers
    caller.run(max(20, calls // 10), connections=connections, streams=streams)

    def once() -> tuple[float, float]:
        before = server.cpu_s()
        load = caller.run(calls, connections=connections, streams=streams)
        return (server.cpu_s() - before) / calls * 1e6, load.calls_per_s

    return once


def _repeat(
    figures: dict[str, Callable[[], tuple[float, float]]], repeats: int
) -> dict[str, dict[str, float]]:
    """Measure the servers in turns, so that a slow minute hits all of them."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in figures}
    for _ in range(repeats):
        for name, once in figures.items():
            seen[name].append(once())
    return {
        name: {
            "cpu_us": median(cpu for cpu, _ in pairs),
            "calls_per_s": median(rate for _, rate in pairs),
        }
        for name, pairs in seen.items()
    }


def _bare(file: Path, network: str, rows: int) -> dict[str, float]:
    """Run onnxruntime in this process, as a caller would without any server."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options)
    x = np.random.default_rng(0).standard_normal((rows, NETWORKS[network].input.size))
    feeds = {"x": x.astype(np.float32)}
    runs = 5 if rows > 500 else 200
    times = []
    for _ in range(7):
        start = time.process_time()
        for _ in range(runs):
            session.run(None, feeds)
        times.append((time.process_time() - start) / runs * 1e6)
    return {"cpu_us": median(times), "calls_per_s": 1e6 / median(times)}


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(
        "network",
        "rows",
        "callers",
        "echo",
        "naive",
        *TRANSPORTS,
        "bare ORT",
        "calls per second\nasyncio / grpcio",
        "rows per second\nasyncio / bare",
        title="CPU microseconds a call",
    )
    for result in results:
        cpu = {name: result[name]["cpu_us"] for name in ("echo", "naive", *TRANSPORTS, "bare")}
        table.add_row(
            "-".join(map(str, NETWORKS[result["network"]].sizes)),
            str(result["rows"]),
            result["callers"],
            *(f"{cpu[name]:.0f}" for name in cpu),
            f"{result['asyncio']['calls_per_s'] / result['grpcio']['calls_per_s']:.1f}",
            f"{result['asyncio']['calls_per_s'] / result['bare']['calls_per_s']:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
