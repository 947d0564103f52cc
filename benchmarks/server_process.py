"""A server as a process of its own, on a core of its own, with its CPU time and memory."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

READY = "ready on "
_START_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ServerProcess:
    """A Python program that prints `ready on HOST:PORT`; ended on leaving the context."""

    def __init__(self, *arguments: str | Path, core: int = 0) -> None:
        """Start `python ARGUMENTS`, pinned to one core, and wait until it is ready."""
        # From the start: the libraries size their pools when they are imported.
        command = ["taskset", "--cpu-list", str(core), sys.executable, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.target = self._wait()

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used so far, in user and kernel mode."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def resident_bytes(self) -> int:
        """Return the memory that the process holds."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def threads(self) -> int:
        """Return how many threads the process has."""
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _wait(self) -> str:
        deadline = time.monotonic() + _START_S
        for line in self._process.stdout or ():
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
            if time.monotonic() > deadline:
                break
        self._process.kill()
        raise RuntimeError(f"{self._process.args} did not become ready")
