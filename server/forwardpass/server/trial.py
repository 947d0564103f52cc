"""The trial: a model is loaded and run in a process of its own before it is in this one.

For files that the guard cannot prove harmless. What they do there, take all memory, never end
or crash, ends that process alone, and the reason is told.
"""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Self

from forwardpass.server import trial_process

_START_S = 60.0
"""How long the process may take to import onnxruntime: 0.4 s, but not on a cold disk."""
_LARGEST_REPLY = 2**16


class TrialError(Exception):
    """A model that did not pass; the text is the reason, written for people."""


class Trial:
    """A process in which models are tried, one after the other; thread-safe.

    It starts with the first trial, and anew after one that crashed it, ran out of memory or
    past the deadline, and after every `trials_each`. It ends with this process.
    """

    def __init__(
        self, *, memory_bytes: int = 2**30, deadline_s: float = 10.0, trials_each: int = 100
    ) -> None:
        """Set the limits of each trial.

        memory_bytes: what a model may take beyond the process' own 100 MB; held on Linux alone.
        """
        self._memory_bytes = memory_bytes
        self._deadline_s = deadline_s
        self._trials_each = trials_each
        self._lock = Lock()
        self._process: _Process | None = None

    def run(self, path: Path, *, general: bool = False) -> None:
        """Return if onnxruntime loads the file and it answers as `proof.prove` asks.

        general: whether the operator takes the risk of operators that some numbers crash.
        Raises TrialError.
        """
        with self._lock:
            if self._process is None or not self._process.usable(self._trials_each):
                self._stop()
                self._process = _Process(self._memory_bytes, self._deadline_s)
            reusable = False
            try:
                reason, reusable = self._process.try_file(path, general)
            finally:
                if not reusable:
                    self._stop()
        if reason:
            raise TrialError(reason)

    def close(self) -> None:
        """End the process, if there is one, and its trial; a later trial starts another."""
        process = self._process
        if process is not None:
            # A trial that runs holds the lock until it ends.
            process.kill()
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Process:
    """A running `trial_process`, spoken to in lines of JSON."""

    def __init__(self, memory_bytes: int, deadline_s: float) -> None:
        """Start it and wait until it is ready; raises TrialError if it does not start."""
        self._deadline_s = deadline_s
        self._trials = 0
        self._unread = b""
        # -P: the current folder may be a model's, and is no place to import from.
        command = [sys.executable, "-P", "-m", trial_process.__name__]
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = subprocess.Popen(  # noqa: S603 - ours, and no shell
                    [*command, str(memory_bytes), str(deadline_s)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    # Ctrl-C is meant for the server, which ends this process itself.
                    process_group=0,
                )
        except OSError as error:
            self._socket.close()
            raise TrialError(f"no process for trials can be started ({error.strerror})") from error
        try:
            self._receive(monotonic() + _START_S)
        except (OSError, ValueError) as error:
            self.stop()
            raise TrialError("the process for trials does not start; see stderr") from error

    def usable(self, trials: int) -> bool:
        """Whether it is alive and has had fewer trials."""
        return self._child.poll() is None and self._trials < trials

    def try_file(self, path: Path, general: bool) -> tuple[str, bool]:
        """Return why a model did not pass, empty if it did, and whether to go on with this process.

        A reason for which it is over tells what the process was doing then.
        """
        self._trials += 1
        deadline = monotonic() + self._deadline_s
        doing = trial_process.LOADING
        try:
            request = {"path": str(path), "general": general}
            self._socket.settimeout(self._deadline_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while True:
                reply = self._receive(deadline)
                if "doing" not in reply:
                    return reply["reason"], reply["reusable"]
                doing = reply["doing"]
        except TimeoutError:
            longer = f"{doing} took longer than {self._deadline_s:g} s"
            return f"{longer}; have the operator raise --trial-s if it may", False
        except (OSError, ValueError, LookupError):
            return f"{doing} ended the process of its trial ({self._end()})", False

    def kill(self) -> None:
        """End it, whatever it does; a trial that runs learns of it."""
        self._child.kill()

    def stop(self) -> None:
        """Kill it and leave nothing of it behind."""
        self._child.kill()
        self._child.wait()
        self._socket.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        """Read a line; raises TimeoutError at the deadline, OSError where none will come."""
        while b"\n" not in self._unread:
            self._socket.settimeout(max(0.001, deadline - monotonic()))
            piece = self._socket.recv(_LARGEST_REPLY)
            if not piece or len(self._unread) > _LARGEST_REPLY:
                raise ConnectionError
            self._unread += piece
        line, self._unread = self._unread.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _end(self) -> str:
        self._child.kill()
        code = self._child.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
