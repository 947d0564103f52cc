"""How much memory this process may still take: by its container, its own limits, the machine."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from forwardpass.server.process.cgroups import CGROUPS, PROC, cgroup_folders

_NO_LIMIT = 2**60
"""cgroup v1 writes a number of pages near 2**63 bytes for no limit."""


class Room(NamedTuple):
    """A limit on memory, and how much of it is in use, in bytes."""

    whose: str
    """What sets the limit, for people."""
    limit: int
    used: int
    """What could be freed at once, as the cache of files, left out."""

    @property
    def free(self) -> int:
        """What may still be taken."""
        return max(0, self.limit - self.used)

    def __str__(self) -> str:
        return (
            f"{_mib(self.free)} MiB are left ({self.whose} of {_mib(self.limit)} MiB, "
            f"{_mib(self.used)} MiB of it in use)"
        )


def room(proc: Path = PROC, cgroups: Path = CGROUPS) -> Room | None:
    """Return the limit that leaves least free; None where the system reports none.

    proc and cgroups are the mount points.
    """
    return min(_rooms(proc, cgroups), key=lambda each: each.free, default=None)


def resident(proc: Path = PROC) -> int | None:
    """Return the memory of this process, in bytes; None where the system does not report it."""
    return _sizes(proc / "self" / "status").get("VmRSS")


def give_back() -> None:
    """Return memory that is free to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _mib(size: int) -> int:
    return size // 2**20


def _rooms(proc: Path, cgroups: Path) -> Iterator[Room]:
    for folder in cgroup_folders("memory", proc, cgroups):
        found = _of_cgroup(folder, "memory.max", "memory.current", "") or _of_cgroup(
            folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        )
        if found is not None:
            yield found
    machine = _sizes(proc / "meminfo")
    if "MemTotal" in machine and "MemAvailable" in machine:
        total = machine["MemTotal"]
        yield Room("the machine's memory", total, total - machine["MemAvailable"])
    try:
        # Not on Windows.
        import resource
    except ImportError:
        return
    own = _sizes(proc / "self" / "status")
    for name, limit, used in (
        ("RLIMIT_AS", resource.RLIMIT_AS, "VmSize"),
        ("RLIMIT_DATA", resource.RLIMIT_DATA, "VmData"),
    ):
        allowed = resource.getrlimit(limit)[0]
        if allowed != resource.RLIM_INFINITY and used in own:
            yield Room(f"the process' {name}", allowed, own[used])


def _of_cgroup(folder: Path, limit: str, used: str, prefix: str) -> Room | None:
    try:
        # "max" is no number: no limit.
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if most >= _NO_LIMIT:
        return None
    cache = sum(int(stat.get(f"{prefix}{part}_file", 0)) for part in ("inactive", "active"))
    return Room("the container's limit", most, max(0, now - cache))


def _sizes(file: Path) -> dict[str, int]:
    """Read lines of `Name: number kB`, in bytes."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    found = (line.replace(":", " ").split() for line in lines if line.endswith(" kB"))
    return {name: int(size) * 1024 for name, size, *_ in found}
