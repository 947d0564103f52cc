"""How many CPUs this process may use: the container's quota, not the host's cores."""

import math
import os
from pathlib import Path

from forwardpass.server.process.cgroups import CGROUPS, PROC, cgroup_folders


def available_cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the number of CPUs that affinity and all cgroups of this process allow, at least 1.

    A fraction of a CPU counts as a whole one. Reads cgroup v2 (`cpu.max`) and v1
    (`cpu.cfs_quota_us` / `cpu.cfs_period_us`); proc and cgroups are the mount points.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = map(_quota, cgroup_folders("cpu", proc, cgroups))
    return max(1, min([allowed or 1, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def _quota(folder: Path) -> float | None:
    """Return a cgroup's limit in CPUs; None without one."""
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
