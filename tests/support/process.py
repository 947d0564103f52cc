"""The server as a process of its own, for tests of signals and exit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.prepared import Prepared
from support.transports import default_transport

PROGRAM = """
import sys
from pathlib import Path

from forwardpass.server.app import Server, serve_until_signalled
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits

models, drain_s, grace_s, transport = sys.argv[1:]
config = Config(
    models=Path(models),
    port=0,
    drain_s=float(drain_s),
    grace_s=float(grace_s),
    limits=Limits(general=True),
    transport=Transport(transport),
)
server = Server(config)
serve_until_signalled(server, config, lambda: print(server.port, flush=True))
"""


@dataclass(frozen=True)
class ServerProcess:
    """A running server, and its handle."""

    port: int
    process: subprocess.Popen[str]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, within_s: float) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired if it does not come."""
        return self.process.wait(within_s)


@contextmanager
def server_process(
    models: Path, *, drain_s: float = 0.0, grace_s: float = 30.0
) -> Iterator[ServerProcess]:
    """Start a server of `models` and wait until it is ready for signals; kill it at the end."""
    command = [sys.executable, "-c", PROGRAM, str(models), str(drain_s), str(grace_s)]
    command.append(default_transport())
    with Prepared(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            assert port, f"the server ended with {process.wait()}"
            _wait_for_handler(process.pid)
            yield ServerProcess(int(port), process)
        finally:
            process.kill()


def _wait_for_handler(pid: int) -> None:
    """Wait until SIGTERM is handled: the port is printed a moment before that."""
    mask = 1 << (signal.SIGTERM - 1)
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not status.exists():
            time.sleep(0.5)
            return
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(caught.split()[1], 16) & mask:
            # SIGINT comes right after it.
            os.sched_yield()
            return
        time.sleep(0.01)
    raise AssertionError("the server does not handle SIGTERM")
