"""What a run was measured on, without the name of the machine."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.field.peers import Peer

_PACKAGES = ("forwardpass", "mlserver", "kserve", "ray", "grpcio", "protobuf", "onnxruntime")
_ASK = """
from importlib.metadata import PackageNotFoundError, version
for name in {names!r}:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""


def machine() -> dict[str, Any]:
    """Return the processor, memory, kernel and date."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model[1] if model else platform.machine(),
        "AVX-512": "avx512f" in info,
        "cores": os.cpu_count(),
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "load average before the run": round(os.getloadavg()[0], 1),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Python": platform.python_version(),
        "h2load": _h2load(),
        "NumPy": version("numpy"),
    }


def versions(peers: list[Peer]) -> dict[str, dict[str, str]]:
    """Return what each server's environment holds."""
    found = {}
    for peer in peers:
        command: list[str | Path] = [peer.python, "-c", _ASK.format(names=_PACKAGES)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[peer.name] = dict(line.split() for line in lines.splitlines())
    return found


def _h2load() -> str:
    said = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.strip().rpartition("/")[2]
