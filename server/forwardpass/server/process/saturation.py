"""Whether one thread of Python is what limits a server: said once, in the log."""

import logging
import time

from forwardpass.server.process.cpus import available_cpus

logger = logging.getLogger(__name__)

SHARE = 0.9
"""Share of a core from which on a thread counts as busy."""
LONG_S = 30.0
"""Time for which it has to be busy, in seconds."""


class Saturation:
    """Watches the CPU time of the thread that calls `look`, every second or so."""

    def __init__(self) -> None:
        self._cpus = available_cpus()
        self._said = self._cpus < 2
        """Whether there is nothing more to say; on one CPU nothing helps."""
        self._at = self._since = 0.0
        """The last look, and the first since which the thread is busy."""
        self._cpu_s = 0.0

    def look(self) -> None:
        """Log a warning, once, if the thread has been busy for long."""
        if self._said:
            return
        now, cpu_s = time.monotonic(), time.thread_time()
        busy = cpu_s - self._cpu_s >= SHARE * (now - self._at)
        if not busy or not self._at:
            self._since = now
        self._at, self._cpu_s = now, cpu_s
        if now - self._since >= LONG_S:
            self._said = True
            logger.warning(
                "one process is the bottleneck: its event loop has used a core for %g s, and there "
                "are %d CPUs; answer with several processes (--processes auto), or more replicas",
                LONG_S,
                self._cpus,
            )
