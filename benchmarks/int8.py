"""What static int8 gains and loses: runs of one file beside the other, no server.

Usage: python -m benchmarks.int8 [--repeats 15]

CPU time of one thread, medians over turns: a slow minute hits both. The loss is that of rows
drawn from the same distribution as the calibration's, or, of the examples, held-out ones.
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from benchmarks.networks import NETWORKS
from forwardpass.models import Network, Quantized, quantize, to_onnx
from forwardpass.models.file.graph import serialize
from forwardpass.models.zoo import ZOO

ROWS = (1, 128)
_LEAST_S = 0.01
"""A turn runs as often as this takes: the clock of CPU time is coarse."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    table = Table("network", "rows", "float32 us", "int8 us", "speed-up", "file", "loss")
    for network, x in _cases():
        quantized = quantize(network, x)
        contents = {"float32": serialize(to_onnx(network)), "int8": quantized.content}
        for rows in ROWS:
            cost = _measure(contents, np.resize(x, (rows, x.shape[1])), repeats)
            table.add_row(*_row(network, quantized, contents, rows, cost))
    Console(width=110).print(table)


def _cases() -> list[tuple[Network, NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    drawn = [
        (network, rng.standard_normal((512, network.input.size)).astype(np.float32))
        for network in (NETWORKS["large"], NETWORKS["small"])
    ]
    examples = [ZOO[name] for name in ("digits_autoencoder", "breast_cancer")]
    return [*drawn, *((example.network(), example.held_out().x) for example in examples)]


def _measure(contents: dict[str, bytes], x: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """Return microseconds of CPU a run, by file."""
    runs = {name: _runner(content, x) for name, content in contents.items()}
    counts = {name: _count(run) for name, run in runs.items()}
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(counts[name]):
                run()
            seen[name].append((time.process_time() - start) / counts[name] * 1e6)
    return {name: median(times) for name, times in seen.items()}


def _runner(content: bytes, x: NDArray[np.float32]) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    feeds = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feeds)


def _count(run: Callable[[], object]) -> int:
    count, start = 0, time.process_time()
    while time.process_time() - start < _LEAST_S:
        run()
        count += 1
    return count


def _row(
    network: Network,
    quantized: Quantized,
    contents: dict[str, bytes],
    rows: int,
    cost: dict[str, float],
) -> list[str]:
    return [
        "-".join(map(str, network.sizes)),
        str(rows),
        f"{cost['float32']:.1f}",
        f"{cost['int8']:.1f}",
        f"{cost['float32'] / cost['int8']:.2f}",
        f"{len(contents['int8']) / len(contents['float32']):.2f}",
        f"{quantized.loss:.3f}",
    ]


if __name__ == "__main__":
    main()
