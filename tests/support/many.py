"""`Server` as several processes, for running tests of one process over many.

With TEST_PROCESSES set, `tests/conftest.py` has every test that makes a `Server` make this one.
What a test reaches inside of its server is not there.
"""

import base64
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any, Self

from forwardpass.server.config import Config
from support.prepared import Prepared

PROGRAM = """
import base64, logging, pickle, sys

from forwardpass.server.workers.supervisor import serve_processes

config = pickle.loads(base64.b64decode(sys.argv[1]))


def show(catalog, config):
    print(config.port, flush=True)


serve_processes(config, lambda incidents: logging.basicConfig(level=logging.INFO), show)
"""


class ManyProcesses:
    """Has the part of `Server` that is seen from outside."""

    count = 2

    def __init__(self, config: Config, *_: object) -> None:
        config = replace(config, processes=self.count, drain_s=0.0)
        text = base64.b64encode(pickle.dumps(config)).decode()
        self._process = Prepared(
            [sys.executable, "-c", PROGRAM, text], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        line = self._stdout.readline()
        assert line, f"the server ended with {self._process.wait()}"
        self.port = int(line)

    def start(self) -> None:
        """It is started."""

    def stop(self, grace_s: float = 0.0) -> None:
        del grace_s
        self._process.send_signal(signal.SIGINT)
        try:
            assert self._process.wait(30) == 0
        finally:
            self._process.kill()
            self._stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
