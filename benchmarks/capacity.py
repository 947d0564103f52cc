"""What a start takes; memory for each connection, and for each call that waits.

Usage: python -m benchmarks.capacity [--transport asyncio grpcio] [--connections N] [--calls N]
[--starts N]

A start is CPU time from the start of the process to its first answer, with one model, and memory
then: medians, in turns with the naive server's, with byte code cached. The modules whose import
takes longest follow, as Python tells them.

A connection is one of gRPC's preface and settings, which then is silent. The calls are of one row,
on three connections, to a network whose run takes several milliseconds; memory is that of the
moment when most of them waited.
"""

import argparse
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np

from benchmarks.load import METHOD, Caller
from benchmarks.networks import NETWORKS
from benchmarks.server_process import READY, ServerProcess
from forwardpass.models import Network, publish
from forwardpass.proto import inference_pb2 as pb

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">HBBBI", 0, 0, 4, 0, 0)
_METRICS_PORT = 19_465
_HEAVY = Network.chain([8, 4096, 4096, 8], name="heavy")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", nargs="+", default=["asyncio", "grpcio"])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--starts", type=int, default=7)
    options = parser.parse_args()
    _of_starts(options.starts)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        publish(_HEAVY, models)
        for transport in options.transport:
            serve = ("-m", "forwardpass.cli", "serve", models, "--port", "0", "--drain-s", "0")
            watched = ("--transport", transport, "--metrics-port", str(_METRICS_PORT))
            with ServerProcess(*serve, *watched) as server:
                connection = _of_connections(server, options.connections)
                call, most = _of_calls(server, options.calls)
            print(
                f"{transport}: {connection / 1024:.1f} KiB a connection, {call / 1024:.1f} KiB a "
                f"call, of which {most} waited",
                flush=True,
            )


def _of_starts(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        publish(NETWORKS["small"], models)
        # For the servers: without byte code a start is mostly the compiler.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        ours = ("-m", "forwardpass.cli", "serve", models, "--port", "0", "--drain-s", "0")
        commands = {"naive": ("-m", "benchmarks.servers.naive", models), "ours": ours}
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
        x = np.ones((1, NETWORKS["small"].input.size), "<f4")
        # The first of each writes the byte code.
        for _ in range(count + 1):
            for name, command in commands.items():
                with ServerProcess(*command) as server:
                    Caller(server.target, "small", x, Path(folder)).answer()
                    found[name].append((server.cpu_s(), server.resident_bytes()))
        cpu_s, resident = (
            {name: median(each[of] for each in taken[1:]) for name, taken in found.items()}
            for of in (0, 1)
        )
        print(
            f"start: {cpu_s['ours']:.2f} s of CPU, naive {cpu_s['naive']:.2f}: "
            f"{cpu_s['ours'] - cpu_s['naive']:.2f} s more; {resident['ours'] / 2**20:.1f} MiB, "
            f"naive {resident['naive'] / 2**20:.1f}: {resident['ours'] / resident['naive']:.2f} "
            "times",
            flush=True,
        )
        _show_imports(ours)


def _show_imports(command: Sequence[str | Path]) -> None:
    """Print the modules whose own import takes longest, by the clock."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", *command],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        with process:
            for line in process.stdout or ():
                if line.startswith(READY):
                    break
            process.kill()
        log.seek(0)
        lines = [line.split("|") for line in log if line.startswith("import time:")]
    took = {line[2].strip(): int(line[0].split(":")[1]) for line in lines[1:]}
    print(f"imports: {sum(took.values()) / 1e3:.0f} ms, {len(took)} modules")
    for name, us in sorted(took.items(), key=lambda each: -each[1])[:15]:
        print(f"  {us / 1e3:5.1f} ms  {name}")


def _of_connections(server: ServerProcess, count: int) -> float:
    host, _, port = server.target.rpartition(":")
    taken = []
    for _ in range(2):
        with ExitStack() as stack:
            before = server.resident_bytes()
            for _ in range(count):
                place = host, int(port)
                sock = stack.enter_context(closing(socket.create_connection(place, timeout=20)))
                sock.sendall(_HELLO)
                # The server's settings: it knows the connection.
                sock.recv(9)
            taken.append((server.resident_bytes() - before) / count)
    return taken[0]


def _of_calls(server: ServerProcess, count: int) -> tuple[float, int]:
    with ExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]
        infers: list[Any] = [
            stack.enter_context(grpc.insecure_channel(server.target, own)).unary_unary(METHOD)
            for _ in range(3)
        ]
        request = _request()
        for infer in infers:
            infer(request, timeout=60)
        before = server.resident_bytes()
        calls = [infers[n % 3].future(request, timeout=300) for n in range(count)]
        taken, most = 0.0, 0
        while not calls[-1].done():
            waiting = _waiting()
            if waiting > most:
                taken, most = server.resident_bytes() - before, waiting
            time.sleep(0.02)
        for call in calls:
            call.result()
    return taken / max(1, most), most


def _waiting() -> int:
    url = f"http://127.0.0.1:{_METRICS_PORT}/metrics"
    with urllib.request.urlopen(url, timeout=30) as page:
        lines = page.read().decode().splitlines()
    (line,) = (line for line in lines if line.startswith("forwardpass_waiting_calls "))
    return int(float(line.split()[1]))


def _request() -> bytes:
    x = np.ones((1, _HEAVY.input.size), "<f4")
    request = pb.ModelInferRequest(model_name=_HEAVY.name, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return request.SerializeToString()


if __name__ == "__main__":
    main()
