"""How many CPUs this process may use: the container's quota, not the host's cores."""

import math
import os
from pathlib import Path


def available_cpus(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the CPUs that affinity and every cgroup above this process leave, at least 1.

    A quota of a part of a CPU counts as a whole one. Knows cgroup v2 (`cpu.max`) and v1
    (`cpu.cfs_quota_us` over `cpu.cfs_period_us`); proc and cgroups are where they are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [quota for folder in _folders(proc, cgroups) if (quota := _quota(folder)) is not None]
    return max(1, min([allowed or 1, *(math.ceil(quota) for quota in quotas)]))


def _folders(proc: Path, cgroups: Path) -> list[Path]:
    """List this process' cgroups with a CPU controller, and those above them."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        # hierarchy:controllers:path; v2 names no controllers.
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        if controllers and not root.is_dir():
            root = cgroups / "cpu"
        folder = root / path.lstrip("/")
        # In a container the path may be the host's, and the mount already the container's own.
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders


def _quota(folder: Path) -> float | None:
    """Return a cgroup's limit in CPUs; None where it has none."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        limit = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return limit if limit > 0 else None
