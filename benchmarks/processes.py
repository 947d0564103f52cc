"""Several processes of one server: calls a second, CPU of a call and memory, against one process.

    python -m benchmarks.processes [ROUNDS]

One and two processes have both cores and take turns. The load has to share the cores with them, so
that two processes cannot show twice the calls of one here: what they would answer on cores of their
own follows from the CPU time of a call.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.load import Caller
from benchmarks.server_process import PinnedProcess, ServerProcess
from forwardpass.models import Network, publish

NETWORK = Network.chain([784, 512, 512, 10], "relu", "softmax", name="large")
SMALL = Network.chain([30, 64, 32, 2], "relu", "sigmoid", name="small")
ROWS, CONNECTIONS, STREAMS, CALLS = 8, 16, 4, 4000
TRANSPORTS = ("asyncio", "grpcio")


def server(models: Path, processes: int, transport: str) -> ServerProcess:
    """Start one on both cores."""
    arguments = ("--processes", str(processes), "--transport", transport, "--port", "0")
    command = ("-m", "forwardpass.cli", "serve", models, *arguments, "--drain-s", "0")
    return ServerProcess(*command, core="0,1")


def family(process: PinnedProcess) -> Iterator[dict[str, int]]:
    """Yield the memory of each process of a server, in KiB."""
    for pid in process.pids():
        lines = [
            line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        ]
        status = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        yield {
            line[0].rstrip(":"): int(line[1]) for line in (*lines[1:], *status) if line[-1] == "kB"
        }


def memory_mib(process: PinnedProcess) -> tuple[float, float]:
    """Return the proportional memory of a server, as it is here and as it is alone on a machine.

    Files that other servers on this machine have mapped, too, count in part for them.
    """
    found = list(family(process))
    here = sum(each["Pss"] for each in found)
    private = sum(each["Pss_Anon"] + each["Pss_Shmem"] for each in found)
    files = max(each["RssFile"] for each in found)
    return here / 1024, (private + files) / 1024


def speed(models: Path, transport: str, rounds: int, folder: Path) -> None:
    """Print the calls a second and the CPU of a call of one process and of two, in turns."""
    x = np.random.default_rng(0).standard_normal((ROWS, 784)).astype(np.float32)
    per_s: dict[int, list[float]] = {1: [], 2: []}
    cpu_us: dict[int, list[float]] = {1: [], 2: []}
    with server(models, 1, transport) as one, server(models, 2, transport) as two:
        for round_ in range(rounds + 1):
            for processes, each in ((1, one), (2, two)):
                caller = Caller(each.target, NETWORK.name, x, folder)
                before = each.cpu_s()
                load = caller.run(CALLS, connections=CONNECTIONS, streams=STREAMS, core="0,1")
                if round_:
                    per_s[processes].append(load.calls_per_s)
                    cpu_us[processes].append((each.cpu_s() - before) / CALLS * 1e6)
    calls = {processes: median(values) for processes, values in per_s.items()}
    cpu = {processes: median(values) for processes, values in cpu_us.items()}
    print(
        f"{transport}: {calls[1]:,.0f} calls/s with one process, {calls[2]:,.0f} with two "
        f"({calls[2] / calls[1]:.2f} times, the load on the same cores, of which one process has "
        f"{calls[1] * cpu[1] / 1e6:.2f} already); "
        f"CPU of a call {cpu[1]:.0f} and {cpu[2]:.0f} us ({cpu[2] / cpu[1]:.2f} times): "
        f"{2 * cpu[1] / cpu[2]:.2f} times the calls on two cores of their own",
        flush=True,
    )


def memory(models: Path, transport: str, folder: Path) -> None:
    """Print the memory of one process and of four, after calls of all."""
    x = np.ones((1, 30), np.float32)
    here, alone = {}, {}
    for processes in (1, 4):
        with server(models, processes, transport) as each:
            Caller(each.target, SMALL.name, x, folder).run(
                CALLS, connections=64, streams=4, core="0,1"
            )
            here[processes], alone[processes] = memory_mib(each)
    print(
        f"{transport}: {alone[1]:.0f} MiB with one process, {alone[4]:.0f} with four "
        f"({alone[4] / alone[1]:.2f} times); as it is shared with other programs here "
        f"{here[1]:.0f} and {here[4]:.0f} MiB ({here[4] / here[1]:.2f} times)",
        flush=True,
    )


def main() -> None:
    """Print all figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network, root in ((NETWORK, folder / "large"), (SMALL, folder / "small")):
            root.mkdir()
            publish(network, root)
        for transport in TRANSPORTS:
            speed(folder / "large", transport, rounds, folder)
        for transport in TRANSPORTS:
            memory(folder / "small", transport, folder)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
