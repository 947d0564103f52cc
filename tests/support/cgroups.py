"""Processes within a limit on their memory, as containers have it: in a cgroup of their own."""

import errno
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.waiting import eventually

_ROOT = Path("/sys/fs/cgroup")


class MemoryCgroup(NamedTuple):
    """A cgroup with a limit on memory, v1 or v2."""

    folder: Path | None
    """None where none could be made: nothing is limited then."""

    def popen(self, command: Sequence[str], **settings: Any) -> "subprocess.Popen[str]":
        """Start a process in it."""
        enter: list[str] = []
        if self.folder is not None:
            enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs")]
        return subprocess.Popen([*enter, *command], text=True, **settings)

    @property
    def peak_mib(self) -> float:
        return int(self._read("memory.peak", "memory.max_usage_in_bytes")) / 2**20

    @property
    def killed(self) -> int:
        """How many processes the kernel ended because memory ran out."""
        if self.folder is None:
            return 0
        lines = self._read("memory.events", "memory.oom_control").splitlines()
        return int(dict(line.split() for line in lines).get("oom_kill", 0))

    def _read(self, *names: str) -> str:
        assert self.folder is not None
        paths = [self.folder / name for name in names]
        return next(path.read_text() for path in paths if path.exists())


@contextmanager
def memory_cgroup(limit_bytes: int, name: str, *, needed: bool = True) -> Iterator[MemoryCgroup]:
    """Make one; say so where that cannot be done, and skip the test if it is needed."""
    try:
        folder = _make(limit_bytes, name)
    except OSError as error:
        what = "NOT TESTED" if needed else "TESTED WITHOUT A LIMIT"
        print(f"\n{what}: no cgroup can be made here ({error})", file=sys.__stderr__)
        if needed:
            pytest.skip(f"no cgroup can be made here: {error}")
        yield MemoryCgroup(None)
        return
    try:
        yield MemoryCgroup(folder)
    finally:
        eventually(lambda: _removed(folder))


def _removed(folder: Path) -> bool:
    """Remove a cgroup; False as long as a process of it is ending."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _make(limit_bytes: int, name: str) -> Path:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path for _, controllers, path in lines}
    if "memory" in paths:
        # v1; in a container the mount may be the container's own.
        parents = (_ROOT / "memory" / paths["memory"].lstrip("/"), _ROOT / "memory")
        folder = next(parent for parent in parents if parent.is_dir()) / name
        limit = "memory.limit_in_bytes"
    else:
        # v2: processes and children with limits are not in one cgroup, but in the root.
        folder, limit = _ROOT / name, "memory.max"
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
    folder.mkdir()
    try:
        (folder / limit).write_text(str(limit_bytes))
    except OSError:
        folder.rmdir()
        raise
    return folder
