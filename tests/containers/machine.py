"""The machine with its Docker engine, and commands on it."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ENGINE_PID = ROOT / ".cache" / "containers" / "dockerd.pid"
SETUP_S = 900


class NoEngineError(Exception):
    """Containers cannot be run here; the text says why."""


@dataclass(frozen=True)
class Machine:
    """Runs commands, with what setup.sh found out as their environment."""

    settings: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *command: str | Path, stdin: str | None = None, check: bool = True, **env: str
    ) -> str:
        """Return what a command wrote to stdout; fail with all that it wrote."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env={**os.environ, **self.settings, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SETUP_S,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{shlex.join(map(str, command))} ended with {done.returncode}:\n"
                f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        return done.stdout

    def docker(self, *arguments: str | Path, check: bool = True) -> str:
        return self.run("docker", *arguments, check=check).strip()

    def python(self, program: str, *options: str) -> str:
        """Run a program in a container of our image."""
        image = self.settings["FORWARDPASS_IMAGE"]
        return self.docker("run", "--rm", *options, "--entrypoint", "python", image, "-c", program)


@contextmanager
def machine() -> Iterator[Machine]:
    """Prepare the machine, build the image; stop the engine at the end if it was started here.

    Raises NoEngineError with the reason where that cannot be done.
    """
    _ENGINE_PID.unlink(missing_ok=True)
    setup = subprocess.run(
        [Path(__file__).parent / "setup.sh"], capture_output=True, text=True, timeout=SETUP_S
    )
    try:
        if setup.returncode:
            raise NoEngineError(setup.stderr.strip()[-1000:] or f"exit code {setup.returncode}")
        settings = dict(line.split("=", 1) for line in shlex.split(setup.stdout))
        yield Machine({**settings, "FORWARDPASS_IMAGE": "forwardpass-test/server:built"})
    finally:
        if _ENGINE_PID.exists():
            _end(int(_ENGINE_PID.read_text()))
            _ENGINE_PID.unlink()


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), within_s=60)


def until(condition: Callable[[], object], *, within_s: float, told: object = "") -> None:
    """Wait for a condition; fail with `told`, called if it can be, when the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(told() if callable(told) else told or "it did not come to be")
        time.sleep(0.25)
