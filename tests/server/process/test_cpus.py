"""CPU quotas of containers, from files laid out as the kernel does."""

import os
from pathlib import Path

import pytest

from forwardpass.server.process.cpus import available_cpus

HOST = len(os.sched_getaffinity(0))


def kernel(tmp_path: Path, cgroup: str, files: dict[str, str]) -> int:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return available_cpus(proc, cgroups)


V1 = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/pod\n", {"pod/cpu.max": "100000 100000\n"}, 1),
        ("0::/pod\n", {"pod/cpu.max": "50000 100000\n"}, 1),
        ("0::/pod\n", {"pod/cpu.max": "max 100000\n"}, HOST),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "90000 100000"}, 1),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/elsewhere/on/the/host\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/pod\n", {"pod/cpu.max": "6400000 100000\n"}, HOST),
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "100000\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            V1,
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            HOST,
        ),
        ("", {}, HOST),
        ("0::/pod\n", {"pod/cpu.max": "nonsense"}, HOST),
        ("0::/pod\n", {"pod/cpu.max": "100000 0"}, HOST),
    ],
)
def test_the_quota_counts_where_there_is_one(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    assert kernel(tmp_path, cgroup, files) == expected


def test_without_proc_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "none", tmp_path / "none") == HOST
