"""What an interactive caller notices of a batch caller at full speed.

Usage: python -m benchmarks.priority [--transport asyncio grpcio] [--calls 1000] [--turns 5]

The server has core 0, both callers share core 1, where the batch caller gives way (`nice`): what is
measured is the server. Turns without the batch caller, with it in the class batch, and with it in
no class follow one another; figures are medians over the turns. The interactive caller makes one
call after the other; the batch caller keeps 64 in flight.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from benchmarks.load import METHOD, Caller
from benchmarks.networks import NETWORKS, publish_all
from benchmarks.server_process import ServerProcess
from forwardpass.proto.priority import BATCH, KEY

CASES = (("small", 1, 1), ("large", 64, 64), ("large", 1, 1024))
"""Network, rows of an interactive call, rows of a batch call."""
_TOO_LONG_S = 600


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", nargs="+", default=["asyncio", "grpcio"])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = publish_all(Path(folder) / "models")["small"].parents[2]
        for transport in options.transport:
            serve = ("-m", "forwardpass.cli", "serve", models, "--port", "0", "--drain-s", "0")
            with ServerProcess(*serve, "--transport", transport) as server:
                for case in CASES:
                    print(transport, end=", ")
                    _measure(server.target, *case, options.calls, options.turns, Path(folder))


def _measure(
    target: str, network: str, rows: int, batch_rows: int, calls: int, turns: int, folder: Path
) -> None:
    places = {name: folder / name for name in ("interactive", "batch")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    interactive = Caller(target, network, _rows(network, rows), places["interactive"])
    # Its request is in a file now.
    Caller(target, network, _rows(network, batch_rows), places["batch"])
    p99_ms: dict[str, list[float]] = {"alone": [], "batch": [], "no class": []}
    for _ in range(turns):
        p99_ms["alone"].append(_p99_ms(interactive, calls))
        for name, fields in (("batch", [f"{KEY}: {BATCH}"]), ("no class", [])):
            with _full_speed(target, places["batch"] / "body", fields):
                # Beside no class a call may take a hundred times as long.
                p99_ms[name].append(_p99_ms(interactive, calls if fields else calls // 5))
    alone, *beside = (median(figures) for figures in p99_ms.values())
    print(
        f"{network}, {rows} rows beside calls of {batch_rows}: p99 {alone:.2f} ms alone, "
        f"{beside[0]:.2f} beside class batch ({beside[0] / alone:.1f} times), "
        f"{beside[1]:.2f} beside no class ({beside[1] / alone:.1f} times)",
        flush=True,
    )


def _rows(network: str, rows: int) -> np.ndarray:
    size = NETWORKS[network].input.size
    return np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)


def _p99_ms(caller: Caller, calls: int) -> float:
    load = caller.run(calls, connections=1, streams=1)
    return quantiles(load.latencies_s, n=100)[98] * 1e3


@contextmanager
def _full_speed(target: str, body: Path, fields: Sequence[str]) -> Iterator[None]:
    """Keep 64 calls in flight meanwhile, from a process that gives way to others."""
    headers = ["content-type: application/grpc", "te: trailers", *fields]
    command = ["nice", "-n", "19", "taskset", "--cpu-list", "1", "h2load", "-D", str(_TOO_LONG_S)]
    command += ["-c", "4", "-m", "16", "-d", str(body), "-w", "26", "-W", "26"]
    command += [part for field in headers for part in ("-H", field)]
    with subprocess.Popen([*command, f"http://{target}{METHOD}"], stdout=subprocess.PIPE) as load:
        time.sleep(0.5)
        try:
            yield
        finally:
            load.terminate()


if __name__ == "__main__":
    main()
