"""A server as a process of its own, on a core of its own, with its CPU time and memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READY = "ready on "
_START_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class Family:
    """A process and all that it started: some servers are many processes."""

    def __init__(self, pid: int) -> None:
        """Take a process that runs."""
        self.pid = pid

    def pids(self) -> list[int]:
        """Return the living processes."""
        return [pid for pid, _ in self.members()]

    def cpu_s(self) -> float:
        """Return the CPU time that the processes have used so far, in user and kernel mode."""
        times = [list(map(int, stat[11:13])) for _, stat in self.members()]
        return sum(map(sum, times)) / _TICKS_PER_S

    def resident_bytes(self) -> int:
        """Return the memory that the processes hold; what they share counts for each."""
        return sum(int(stat[21]) for _, stat in self.members()) * _PAGE_BYTES

    def threads(self) -> int:
        """Return how many threads the processes have."""
        return sum(int(stat[17]) for _, stat in self.members())

    def members(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each living process of the family with its fields of /proc/PID/stat.

        The fields are those after the name: index 0 is the state.
        """
        stats: dict[int, list[str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    stats[int(entry.name)] = _stat(int(entry.name))
        children: dict[int, list[int]] = {}
        for pid, stat in stats.items():
            children.setdefault(int(stat[1]), []).append(pid)
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            waiting += children.get(pid, ())
            if pid in stats:
                yield pid, stats[pid]


class PinnedProcess(Family):
    """A command pinned to some cores, with whatever it starts; ended on leaving the context."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        core: int | str = 0,
        env: Mapping[str, str] | None = None,
        out: int | IO[bytes] | None = None,
    ) -> None:
        # From the start: the libraries size their pools when they are imported.
        pinned = ["taskset", "--cpu-list", str(core), *map(str, command)]
        self.started = time.perf_counter()
        self.process = subprocess.Popen(pinned, stdout=out, stderr=_errors(out), env=env)
        super().__init__(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        family = [(pid, stat[19]) for pid, stat in self.members()]
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # What outlived its parent; a number that went to another process began at another time.
        for pid, start_time in family:
            with suppress(OSError):
                if _stat(pid)[19] == start_time:
                    os.kill(pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()


class ServerProcess(PinnedProcess):
    """A Python program that prints `ready on HOST:PORT`."""

    def __init__(
        self, *arguments: str | Path, core: int | str = 0, env: Mapping[str, str] | None = None
    ) -> None:
        """Start `python ARGUMENTS`, and wait until it is ready."""
        super().__init__([sys.executable, *arguments], core=core, env=env, out=subprocess.PIPE)
        self.target = self._wait()

    def _wait(self) -> str:
        deadline = time.monotonic() + _START_S
        for line in self.process.stdout or ():
            text = line.decode()
            if text.startswith(READY):
                return text.removeprefix(READY).strip()
            if time.monotonic() > deadline:
                break
        self.process.kill()
        raise RuntimeError(f"{self.process.args!r} did not become ready")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _errors(out: int | IO[bytes] | None) -> int | None:
    """Where stderr goes: along into a file, else to ours."""
    return None if out is None or out == subprocess.PIPE else subprocess.STDOUT
