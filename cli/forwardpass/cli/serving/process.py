"""`forwardpass serve` in a process of its own."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forwardpass.cli.errors import CommandError
from forwardpass.cli.serving.serve import READY

_START_S = 60.0
_STOP_S = 10.0
_KEPT_LINES = 20


@contextmanager
def server_process(repository: Path, port: int) -> Iterator[str]:
    """Run `forwardpass serve` while the block runs; yield its target once it is ready.

    Raises CommandError, with the end of its log, if it does not come up.
    """
    command = [sys.executable, "-m", "forwardpass.cli", "serve", str(repository)]
    with subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--port", str(port), "--drain-s", "0"],
        # The user's settings in the environment are not meant for this server.
        env={name: text for name, text in os.environ.items() if not name.startswith("FORWARDPASS")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        log: deque[str] = deque(maxlen=_KEPT_LINES)
        # A pipe that nobody reads would fill up and stop the server.
        reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            target = _target(process)
            if target is None:
                reader.join()
                raise CommandError(f"the server did not come up:\n{''.join(log)}")
            yield target
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join(_STOP_S)


def _target(process: "subprocess.Popen[str]") -> str | None:
    """Return the target of the server; None if it ended, or was ended for being too slow."""
    too_slow = threading.Timer(_START_S, process.kill)
    too_slow.start()
    try:
        for line in process.stdout or ():
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
        return None
    finally:
        too_slow.cancel()
