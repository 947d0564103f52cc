"""What our client costs: to import, to call, for a million rows, to install.

Usage: python -m benchmarks.client [--repeats 7] [--json FILE]

The server has core 0, the clients core 1, one after the other in turns; figures are medians, and
CPU is that of the client's process. tritonclient runs in an environment of its own, which is made
in .cache/ and filled by pip at the first run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import distribution
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.load import Caller
from benchmarks.networks import publish_all
from benchmarks.server_process import ServerProcess
from forwardpass.client import Client

ROOT = Path(__file__).parents[1]
CALLS = 2_000
ROWS = 1_000_000
ROWS_PER_CALL = 1_024
PIN = ("taskset", "--cpu-list", "1")

CLIENT = ("forwardpass", "numpy", "grpcio", "typing_extensions", "protobuf")
"""What a program that only calls imports."""
BASE = (*CLIENT, "onnx", "ml_dtypes")
"""What `pip install forwardpass` brings."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    figures = {"import": imports(options.repeats)}
    with tempfile.TemporaryDirectory() as folder:
        publish_all(Path(folder) / "models")
        command: list[str | Path] = ["-m", "forwardpass.cli", "serve", Path(folder) / "models"]
        command += ["--port", "0"]
        with ServerProcess(*command, "--drain-s", "0") as server:
            figures["call"] = calls(server.target, options.repeats)
            figures["rows"] = rows(server.target, Path(folder), options.repeats)
    figures["install"] = installed()
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


def imports(repeats: int) -> dict[str, float]:
    """Compare the CPU of importing the client with that of importing what it cannot do without.

    Both from bytecode, as pip leaves it: a checkout has none where Python is told to write none.
    """
    programs = {
        "grpc, numpy": "import grpc, numpy",
        "ours": "import forwardpass.client",
        "ours, with AsyncClient": "from forwardpass.client import AsyncClient",
    }
    seen: dict[str, list[float]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = os.environ | {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": bytecode,
        }
        for turn in range(1 + 2 * repeats):
            for name, program in programs.items():
                program += "; import time; print(time.process_time())"
                command = [*PIN, sys.executable, "-c", program]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=environment
                )
                if turn:  # the first writes the bytecode
                    seen[name].append(float(done.stdout) * 1e3)
    print("import, CPU ms:")
    for name, times in seen.items():
        ratio = _ratio(times, seen["grpc, numpy"])
        print(f"        {name}: {median(times):.0f}, at least {min(times):.0f}; {ratio:.2f} x")
    found = {name: median(times) for name, times in seen.items()}
    return found | {"ratio": _ratio(seen["ours"], seen["grpc, numpy"])}


def calls(target: str, repeats: int) -> dict[str, float]:
    """Compare the CPU of a call of one row between clients."""
    pythons = dict.fromkeys(("stub", "ours", "stub_async", "ours_async"), sys.executable)
    pythons["triton"] = str(_environment("tritonclient[grpc]"))
    seen: dict[str, list[float]] = {name: [] for name in pythons}
    for _ in range(repeats):
        for name, python in pythons.items():
            command = [*PIN, python, "-m", f"benchmarks.clients.{name}", target, str(CALLS)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            seen[name].append(float(done.stdout))
    found = {name: median(times) for name, times in seen.items()}
    ratios = {
        "ours / stub": _ratio(seen["ours"], seen["stub"]),
        "ours_async / stub_async": _ratio(seen["ours_async"], seen["stub_async"]),
        "ours / triton": _ratio(seen["ours"], seen["triton"]),
    }
    print("CPU us a call of one row: " + ", ".join(f"{k} {v:.0f}" for k, v in found.items()))
    for name, ratio in ratios.items():
        print(f"        {name}: {ratio:.2f} x")
    return found | ratios


def rows(target: str, folder: Path, repeats: int) -> dict[str, float]:
    """Compare a million rows through `predict` with the rate that the server has for h2load."""
    x = np.random.default_rng(0).standard_normal((ROWS, 30), np.float32)
    caller = Caller(target, "small", x[:ROWS_PER_CALL], folder)
    os.sched_setaffinity(0, {1})
    servers, ours = [], []
    with Client(target, timeout_s=None) as client:
        client.predict("small", x[:ROWS_PER_CALL])
        for _ in range(repeats):
            servers.append(caller.run(500, connections=1, streams=4).calls_per_s * ROWS_PER_CALL)
            start = time.perf_counter()
            client.predict("small", x)
            ours.append(ROWS / (time.perf_counter() - start))
    ratio = _ratio(ours, servers)
    print(
        f"rows a second: predict {median(ours):,.0f}, the server for h2load {median(servers):,.0f}"
    )
    print(f"        {ratio:.2f} x")
    return {"predict": median(ours), "server": median(servers), "ratio": ratio}


def installed() -> dict[str, float]:
    """Add up the files of what is installed, in MiB."""
    sizes = {name: _installed_mib(name) for name in BASE}
    client = sum(sizes[name] for name in CLIENT)
    base = sum(sizes.values())
    print("installed MiB: " + ", ".join(f"{k} {v:.1f}" for k, v in sizes.items()))
    print(f"        client alone {client:.0f}, base with onnx {base:.0f}")
    return sizes | {"client": client, "base": base}


def _installed_mib(name: str) -> float:
    # An editable installation has no files: ours are the parts that a client imports.
    if name == "forwardpass":
        files = [*(ROOT / "client").rglob("*.py*"), *(ROOT / "proto").rglob("*.[pb]*")]
    else:
        files = [Path(file.locate()) for file in distribution(name).files or ()]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def _environment(package: str) -> Path:
    """Return the Python of an environment with a package and NumPy; made where it is not yet."""
    home = ROOT / ".cache" / "environments" / "benchmarks-tritonclient"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", package, "numpy"], check=True)
        (home / "complete").touch()
    return python


def _ratio(some: list[float], others: list[float]) -> float:
    """Return the median of the ratios of turns: a slow minute hits both of one turn."""
    return median(a / b for a, b in zip(some, others, strict=True))


if __name__ == "__main__":
    main()
