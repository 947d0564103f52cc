"""What an explanation costs a server, and how complete it is.

Usage: python -m benchmarks.explain [--rows 1 64] [--steps 64] [--calls 300] [--turns 7]

The cost is the server's CPU time of a call that asks for an explanation, over that of the same call
without: in turns, medians. The error is the largest completeness error over held-out rows, of any
column, relative to the range of the column's answers.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.networks import NETWORKS
from benchmarks.server_process import ServerProcess
from forwardpass.client import Client, load
from forwardpass.models import Network, publish
from forwardpass.models.zoo import ZOO

_LEAST_RANGE = 1e-3
"""Columns whose answers hardly differ are left out: some pixels of the digits are always white."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", nargs="+", default=["asyncio", "grpcio"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        network = Network.chain([30, 64, 32, 2], "relu", "softmax", name="relu")
        for each in (network, NETWORKS["large"]):
            publish(each, root)
        for transport in options.transport:
            serve = ("-m", "forwardpass.cli", "serve", root, "--port", "0", "--drain-s", "0")
            with ServerProcess(*serve, "--transport", transport) as server:
                for each in (network, NETWORKS["large"]):
                    for rows in options.rows:
                        cost = _costs(server, each, rows, options)
                        print(
                            f"{transport}, {'-'.join(map(str, each.sizes))}, {rows} rows: "
                            f"{cost[0]:.0f} us of CPU a call, explained {cost[1]:.0f}, "
                            f"{cost[1] / cost[0]:.1f} times",
                            flush=True,
                        )
    for example in ZOO.values():
        print(f"{example.name}: completeness error {_error(example.network(), options.steps):.1e}")


def _costs(
    server: ServerProcess, network: Network, rows: int, options: argparse.Namespace
) -> tuple[float, float]:
    """Return the server's CPU time of a call without and with an explanation, in microseconds."""
    x = np.random.default_rng(0).standard_normal((rows, network.input.size)).astype(np.float32)
    output = network.outputs[0].name
    asked: Sequence[dict[str, object]] = (
        {},
        {"explain": f"{output}:0", "explain_steps": options.steps},
    )
    took: tuple[list[float], list[float]] = ([], [])
    with Client(server.target) as client:
        for explain in asked:
            client.predict(network.name, x, **explain)  # type: ignore[arg-type]
        for _ in range(options.turns):
            for explain, times in zip(asked, took, strict=True):
                # The clock of CPU time is coarse: what is quick is called more often.
                calls = options.calls if explain else 10 * options.calls
                before_s = server.cpu_s()
                for _ in range(calls):
                    client.predict(network.name, x, **explain)  # type: ignore[arg-type]
                times.append((server.cpu_s() - before_s) / calls * 1e6)
    return median(took[0]), median(took[1])


def _error(network: Network, steps: int) -> float:
    """Return the largest completeness error of a file's explanations over held-out rows."""
    x = ZOO[network.name].held_out()[:100].x
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        client = load(publish(network, folder).path)
        for output, answers in client.predict(network.name, x).items():
            for column, spread in enumerate(np.ptp(answers, axis=0)):
                if spread >= _LEAST_RANGE:
                    answer = client.predict(
                        network.name, x, explain=f"{output}:{column}", explain_steps=steps
                    )
                    error = np.abs(answer[f"explain.{output}.error"]).max()
                    largest = max(largest, float(error / spread))
    return largest


if __name__ == "__main__":
    main()
