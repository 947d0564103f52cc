"""Memory that is left, from files laid out as the kernel does, and in a process with a limit."""

import subprocess
import sys
from pathlib import Path

import pytest

from forwardpass.server.process.memory import Room, room

V1 = "4:memory:/docker/abc\n3:cpu:/docker/abc\n"
MIB = 2**20


def kernel(tmp_path: Path, cgroup: str, files: dict[str, str]) -> Room | None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        place = proc / "meminfo" if name == "meminfo" else cgroups / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return room(proc, cgroups)


def v2(folder: str, limit: str, used: int, cache: int = 0) -> dict[str, str]:
    stat = f"anon 1\nfile {cache + 7}\ninactive_file {cache}\nactive_file 0\nshmem 7"
    names = {"memory.max": limit, "memory.current": str(used), "memory.stat": stat}
    return {f"{folder}{name}": f"{text}\n" for name, text in names.items()}


def v1(folder: str, limit: int, used: int, cache: int = 0) -> dict[str, str]:
    stat = f"inactive_file 1\nactive_file 2\ntotal_inactive_file {cache}\ntotal_active_file 0"
    names = {
        "memory.limit_in_bytes": str(limit),
        "memory.usage_in_bytes": str(used),
        "memory.stat": stat,
    }
    return {f"{folder}{name}": f"{text}\n" for name, text in names.items()}


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/pod\n", v2("pod/", "1000", 300), (1000, 300)),
        # The cache of files is given up for others.
        ("0::/pod\n", v2("pod/", "1000", 300, cache=200), (1000, 100)),
        ("0::/pod\n", v2("pod/", "max", 300), None),
        # The tightest of all around it.
        ("0::/pod/box\n", v2("pod/box/", "1000", 100) | v2("pod/", "900", 200), (900, 200)),
        ("0::/elsewhere/on/the/host\n", v2("", "1000", 400), (1000, 400)),
        (V1, v1("memory/docker/abc/", 1000, 300, cache=50), (1000, 250)),
        (V1, v1("memory/", 1000, 300), (1000, 300)),
        (V1, v1("memory/", 9223372036854771712, 300), None),
        ("", {}, None),
        ("0::/pod\n", {"pod/memory.max": "nonsense"}, None),
    ],
)
def test_what_a_container_has_left(
    cgroup: str, files: dict[str, str], expected: tuple[int, int] | None, tmp_path: Path
) -> None:
    found = kernel(tmp_path, cgroup, files)

    assert (found and (found.limit, found.used)) == expected


def test_without_a_container_it_is_the_machine(tmp_path: Path) -> None:
    meminfo = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nHugePages_Total: 0\n"

    found = kernel(tmp_path, "", {"meminfo": meminfo})

    assert found is not None
    assert (found.limit, found.used, found.free) == (1000 * 1024, 600 * 1024, 400 * 1024)


def test_a_limit_that_is_passed_leaves_nothing(tmp_path: Path) -> None:
    found = kernel(tmp_path, "0::/pod\n", v2("pod/", str(100 * MIB), 130 * MIB))

    assert found is not None
    assert found.free == 0
    assert str(found) == "0 MiB are left (the container's limit of 100 MiB, 130 MiB of it in use)"


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_process_limit_of_its_own_counts(name: str) -> None:
    program = (
        "import resource, sys\n"
        "from forwardpass.server.process.memory import room\n"
        f"resource.setrlimit(resource.{name}, (2**29, 2**29))\n"
        "print(room())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert f"(the process' {name} of 512 MiB" in done.stdout
