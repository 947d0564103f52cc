"""Another client, which calls while a server is attacked, and must not be affected."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.proc import cpu_s, resident_mib
from support.process import ServerProcess
from support.rpc import Stub
from support.served import GOOD, assert_answered

MOST_CPU_S = 5.0
"""Maximum CPU seconds of an attack, from its first byte until its connection ends; most take a
tenth."""
MOST_MIB = 48
"""Maximum growth of memory in MiB: what a connection may hold, and what malloc keeps of it."""


@dataclass
class Bystander:
    """Calls, one after another, from a connection of its own, while something else goes on."""

    port: int
    calls: int = 0
    failures: list[Exception] = field(default_factory=list)

    @contextmanager
    def calling(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._call, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _call(self, over: threading.Event) -> None:
        try:
            with Stub(self.port) as stub:
                while True:
                    # Within 20 seconds, or not at all.
                    assert_answered(stub, GOOD["linear"])
                    self.calls += 1
                    if over.is_set():
                        return
        except Exception as error:
            self.failures.append(error)


@contextmanager
def nobody_notices(process: ServerProcess) -> Iterator[None]:
    """Check that others are answered while the block runs, which takes little CPU and memory."""
    pid = process.process.pid
    memory, cpu = resident_mib(pid), cpu_s(pid)
    bystander = Bystander(process.port)
    with bystander.calling():
        yield
        attack_s = cpu_s(pid) - cpu
    assert not bystander.failures
    assert bystander.calls > 0
    assert attack_s < MOST_CPU_S
    assert resident_mib(pid) - memory < MOST_MIB
