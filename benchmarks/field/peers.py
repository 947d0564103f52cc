"""The servers that are compared, and how each is started; all serve every model of a folder."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

if TYPE_CHECKING:  # The same file, by the name that mypy knows it under: it can have one alone.
    from conformance.environments import ROOT, python_with
else:
    from tests.conformance.environments import ROOT, python_with

ALONE = "onnxruntime alone"
"""No server: the runtime in the process that measures."""
ECHO = "echo"
FRAMES = "frames"
NAIVE = "naive grpcio"
MLSERVER = "MLServer"
RAY_SERVE = "Ray Serve"
OURS = "Forwardpass"
"""As it serves without an option."""
OURS_GRPCIO = "Forwardpass, grpcio"
OURS_ON_TWO = "Forwardpass, 2 processes"
NAIVE_ON_TWO = "naive grpcio, 2 cores"


@dataclass(frozen=True)
class Started:
    """What starts a server that listens on 127.0.0.1."""

    command: list[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A server to measure."""

    name: str
    start: Callable[[Path, int, Path], Started]
    """Of the models' folder, the port, and an empty folder that it may write to."""
    requires: tuple[str, ...] = ()
    """Packages of an environment of its own; none for ours."""
    cores: str = "0"
    """Those that it is pinned to, as taskset takes them."""
    foreign: tuple[str, int, int] | None = None
    """Host, port and process of a server that somebody else has started; None: ours to start."""

    @classmethod
    def of(cls, text: str) -> "Peer":
        """Read `NAME=HOST:PORT,PID`; raises ValueError."""
        found = re.fullmatch(r"([^=|]+)=\[?([^,\]]+)\]?:(\d+),(\d+)", text)
        if found is None:
            raise ValueError(f"server: expected NAME=HOST:PORT,PID, got {text!r}")
        name, host, port, pid = found.groups()
        return cls(name, _not_ours, foreign=(host, int(port), int(pid)))

    @property
    def python(self) -> Path:
        """The Python of its environment, made at the first use."""
        return python_of(self.requires)


@cache
def python_of(requires: tuple[str, ...]) -> Path:
    """Return the Python of an environment; ours where nothing is required.

    onnxruntime has our version everywhere, so that answers can be compared bit for bit.
    """
    if not requires:
        return Path(sys.executable)
    return python_with(*requires, f"onnxruntime=={onnxruntime.__version__}")


def peers() -> list[Peer]:
    """Return every server that is started here."""
    two = [Peer(NAIVE_ON_TWO, _naive, cores="0,1")]
    if offers("--processes"):
        two.insert(0, Peer(OURS_ON_TWO, _ours("--processes", "2"), cores="0,1"))
    return [
        Peer(OURS, _ours()),
        Peer(OURS_GRPCIO, _ours("--transport", "grpcio")),
        Peer(NAIVE, _naive),
        Peer(MLSERVER, mlserver, ("mlserver==1.7.*",)),
        Peer("KServe", _kserve, ("kserve",)),
        Peer(RAY_SERVE, _ray, ("ray[serve]",)),
        Peer(ECHO, _echo),
        Peer(FRAMES, _frames),
        *two,
    ]


def offers(option: str) -> bool:
    """Return whether `forwardpass serve` has an option, as its help tells."""
    help_ = subprocess.run(
        [*_FORWARDPASS, "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"},
    ).stdout
    return option in help_


_FORWARDPASS = [sys.executable, "-m", "forwardpass.cli"]


def _ours(*options: str) -> Callable[[Path, int, Path], Started]:
    def start(models: Path, port: int, _: Path) -> Started:
        command: list[str | Path] = [*_FORWARDPASS, "serve", models]
        return Started([*command, "--port", str(port), "--drain-s", "0", *options])

    return start


def _not_ours(*_: object) -> Started:
    raise RuntimeError("somebody else has started it")


def _program(name: str, *arguments: str | Path, requires: tuple[str, ...] = ()) -> Started:
    """Start a program of this repository; environments that lack our package find it by path."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    env = {
        "PYTHONPATH": path,
        # Neither calls home while it is measured.
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Ray writes a token into the home folder.
        "RAY_AUTH_MODE": "disabled",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    python = python_of(requires)
    return Started([python, "-m", f"benchmarks.servers.{name}", *arguments], env)


def _naive(models: Path, port: int, _: Path) -> Started:
    return _program("naive", models, str(port))


def _echo(_: Path, port: int, __: Path) -> Started:
    return _program("echo", str(port))


def _frames(_: Path, port: int, __: Path) -> Started:
    return _program("frames", str(port))


def _kserve(models: Path, port: int, _: Path) -> Started:
    arguments = (models, str(port), str(free_port()))
    return _program("kserve_server", *arguments, requires=("kserve",))


def _ray(models: Path, port: int, _: Path) -> Started:
    arguments = (models, str(port), str(free_port()))
    return _program("ray_server", *arguments, requires=("ray[serve]",))


def mlserver(models: Path, port: int, folder: Path) -> Started:
    """MLServer with the runtime that the conformance tests serve with.

    Its port of HTTP is in the folder's settings.json.
    """
    for file in models.glob("*/1/model.onnx"):
        home = folder / file.parents[1].name
        home.mkdir()
        settings = {
            "name": home.name,
            "implementation": "runtime.OnnxModel",
            "parameters": {"uri": str(file), "version": "1"},
        }
        (home / "model-settings.json").write_text(json.dumps(settings))
    server = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        # In the server's own process: faster by far on one core than a worker beside it.
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    runtime = ROOT / "tests" / "conformance" / "programs" / "mlserver"
    python = python_of(("mlserver==1.7.*",))
    return Started(
        [python.with_name("mlserver"), "start", folder],
        {"PYTHONPATH": str(runtime), "ORT_DISABLE_TELEMETRY": "1"},
    )


def free_port() -> int:
    """Return a port that nothing listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
