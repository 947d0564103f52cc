"""A server of several processes, and connections to each of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from support.command import serving
from support.proc import children
from support.rpc import Stub
from support.transports import default_transport


@dataclass
class Processes:
    """A running server of several processes."""

    process: subprocess.Popen[str]
    target: str
    log: Path
    said: str = ""
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2])

    @property
    def forked(self) -> set[int]:
        """The keeper and the workers."""
        return children(self.process.pid)

    def workers(self) -> set[int]:
        return {pid for pid in self.forked if named(pid).startswith("fp worker")}

    def keeper(self) -> int:
        (pid,) = [pid for pid in self.forked if named(pid) == "fp keeper"]
        return pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stub(self) -> Stub:
        """A stub with a connection of its own."""
        return self.stack.enter_context(own_connection(self.target))

    def stub_of_each(self) -> dict[int, Stub]:
        """A stub with a connection to each worker."""
        found: dict[int, Stub] = {}
        workers = self.workers()
        deadline = time.monotonic() + 30
        while found.keys() != workers:
            assert time.monotonic() < deadline, (found, workers)
            before = {pid: connected(pid, self.target) for pid in workers}
            stub = self.stub()
            grpc.channel_ready_future(stub.channel).result(20)
            (pid,) = [pid for pid in workers if connected(pid, self.target) - before[pid]]
            found.setdefault(pid, stub)
        return found


def named(pid: int) -> str:
    """The name of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def own_connection(target: str) -> Stub:
    """A stub that shares no connection with others of this process."""
    stub = Stub(target)
    stub.channel.close()
    stub.channel = grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
    return stub


def connected(pid: int, target: str) -> set[str]:
    """The connections from clients that a process has, as inodes of its sockets."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(descriptor)
        except OSError:
            continue
        if name.startswith("socket:["):
            own.add(name[8:-1])
    if target.startswith("unix:"):
        path = target.removeprefix("unix:")
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        return own & {row[6] for row in rows if row[-1] == path and row[5] == "03"}
    port = f":{int(target.rpartition(':')[2]):04X}"
    # grpcio listens on IPv6 for both.
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    rows = [row.split() for table in tables for row in table.read_text().splitlines()[1:]]
    return own & {row[9] for row in rows if row[1].endswith(port) and row[3] == "01"}


@contextmanager
def processes(
    models: Path | str, log: Path, *arguments: str | Path, count: int = 2, **options: Any
) -> Iterator[Processes]:
    """Run `forwardpass serve --processes` while the block runs; kill it at the end."""
    arguments = (models, "--processes", str(count), "--drain-s", "0", *arguments)
    if "--transport" not in arguments:
        arguments = (*arguments, "--transport", default_transport())
    if "--host" not in arguments:
        arguments = (*arguments, "--port", "0")
    with serving(*arguments, log=log, **options) as served, ExitStack() as stack:
        yield Processes(served.process, served.target, log, served.said, stack)


if sys.platform != "linux":
    raise ImportError("several processes are served on Linux alone")
