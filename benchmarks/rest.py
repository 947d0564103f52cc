"""What a call costs over REST: JSON and binary tensors beside our gRPC, a naive one and MLServer.

Usage: python -m benchmarks.rest [--turns 9] [--calls 20000] [--network small]

One row a call, from 32 connections with one call each in flight: over HTTP/1.1 and gRPC of one
server of ours, over gRPC of a naive server (grpcio, one run of onnxruntime a call), and over REST
of MLServer in an environment of its own. They take turns in one run; CPU is the server process'
own, in user and kernel mode; figures are medians, and ratios are those of the turns. JSON has
numbers of four decimals, as people send them, or all digits of float32 values. The load is
h2load's, which has HTTP/1.1 as well.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.field.peers import free_port, mlserver
from benchmarks.load import Caller
from benchmarks.networks import NETWORKS
from benchmarks.server_process import Family, PinnedProcess, ServerProcess
from forwardpass.models import publish

CONNECTIONS = 32
_SHARE = 10
"""MLServer gets one call in so many: the figure is for one."""
_START_S = 120.0


class RestCaller:
    """Sends one request over HTTP/1.1 again and again."""

    def __init__(
        self, port: int, model: str, x: np.ndarray, folder: Path, *, binary: bool, digits: int = 20
    ) -> None:
        self._url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
        tensor: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": list(x.shape)}
        body: dict[str, object] = {"inputs": [tensor]}
        self._fields: list[str] = []
        if binary:
            raw = x.astype("<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw)}
            body["parameters"] = {"binary_data_output": True}
            head = json.dumps(body).encode()
            self._fields = ["-H", f"Inference-Header-Content-Length: {len(head)}"]
            content = head + raw
        else:
            tensor["data"] = [round(each, digits) for each in x.ravel().tolist()]
            self._fields = ["-H", "Content-Type: application/json"]
            content = json.dumps(body).encode()
        self._body = folder / f"rest-{binary}-{digits}"
        self._body.write_bytes(content)

    def run(self, calls: int) -> None:
        """Send calls; raises RuntimeError if one failed."""
        command = ["taskset", "--cpu-list", "1", "h2load", "--h1", "-n", str(calls)]
        command += ["-c", str(CONNECTIONS), "-d", str(self._body), *self._fields, self._url]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"status codes: (\d+) 2xx", report)
        if found is None or int(found[1]) != calls:
            raise RuntimeError(report)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    options = parser.parse_args()
    network, calls = NETWORKS[options.network], options.calls
    x = np.random.default_rng(0).standard_normal((1, network.input.size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        models = folder / "models"
        publish(network, models)
        port = free_port()
        serve: tuple[str | Path, ...] = ("-m", "forwardpass.cli", "serve", models, "--port", "0")
        serve = (*serve, "--http-port", str(port), "--drain-s", "0")
        with (
            ServerProcess(*serve) as ours,
            ServerProcess("-m", "benchmarks.servers.naive", models) as naive,
            _mlserver(models, network.name, folder / "mlserver") as (theirs, their_port),
        ):
            their_rest = RestCaller(their_port, network.name, x, folder, binary=False, digits=4)
            (folder / "naive").mkdir()
            grpc = Caller(ours.target, network.name, x, folder)
            other = Caller(naive.target, network.name, x, folder / "naive")
            rest = {
                "JSON": RestCaller(port, network.name, x, folder, binary=False, digits=4),
                "JSON, all digits": RestCaller(port, network.name, x, folder, binary=False),
                "binary": RestCaller(port, network.name, x, folder, binary=True),
            }
            runs: dict[str, tuple[Family, Callable[[int], object]]] = {
                "gRPC": (ours, lambda n: grpc.run(n, connections=CONNECTIONS, streams=1)),
                **{name: (ours, caller.run) for name, caller in rest.items()},
                "naive gRPC": (naive, lambda n: other.run(n, connections=CONNECTIONS, streams=1)),
                "MLServer JSON": (theirs, their_rest.run),
            }
            used: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(-1, options.turns):
                for name in sorted(runs, reverse=turn % 2 == 0):
                    server, run = runs[name]
                    count = calls // _SHARE if server is theirs else calls
                    before = server.cpu_s()
                    run(count)
                    if turn >= 0:  # the first turn warms up
                        used[name].append((server.cpu_s() - before) / count * 1e6)
    for name, seen in used.items():
        ratios = [
            median(one / other for one, other in zip(seen, used[base], strict=True))
            for base in ("gRPC", "naive gRPC", "MLServer JSON")
        ]
        print(
            f"{name}: {median(seen):.1f} us of CPU a call, {ratios[0]:.2f} of our gRPC, "
            f"{ratios[1]:.2f} of naive gRPC, {ratios[2]:.3f} of MLServer's JSON"
        )


@contextmanager
def _mlserver(models: Path, model: str, folder: Path) -> Iterator[tuple[Family, int]]:
    """Start MLServer and wait until its model is ready; yields it with its port of HTTP."""
    folder.mkdir()
    started = mlserver(models, free_port(), folder)
    port = int(json.loads((folder / "settings.json").read_text())["http_port"])
    ready = f"http://127.0.0.1:{port}/v2/models/{model}/ready"
    with (
        (folder / "log").open("wb") as log,
        PinnedProcess(started.command, env=os.environ | started.env, out=log) as server,
    ):
        while True:
            try:
                with urllib.request.urlopen(ready, timeout=5):
                    break
            except OSError:
                if time.perf_counter() - server.started > _START_S:
                    raise RuntimeError((folder / "log").read_text()[-2000:]) from None
                time.sleep(0.2)
        yield server, port


if __name__ == "__main__":
    main()
