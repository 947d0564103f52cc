"""The trial: a model is loaded and run in a process of its own before it is loaded in this one.

For files that the guard cannot prove harmless. A file that takes all memory, never ends or
crashes ends only that process, and the reason is reported.
"""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple, Self

from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.repository import trial_process

_START_S = 60.0
"""Maximum seconds to start the process: 0.4 s to import onnxruntime, more on a cold disk."""
_LARGEST_REPLY = 2**16


_LONGER_S, _TIMES = 60.0, 10.0
"""How long a trial may take at most: its CPU time so many times, and so much longer."""


class TrialError(Exception):
    """A model that did not pass; the text is the reason, written for people."""

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        """Prepare; may_pass: Whether another trial of the same file may end otherwise."""
        super().__init__(reason)
        self.may_pass = may_pass


class Trial:
    """A process in which models are tried, one after the other; thread-safe.

    It starts with the first trial, and again after one that crashed it, ran out of memory or
    past the deadline, and after every `trials_each`. It ends with this process.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 2**30,
        cpu_s: float = 10.0,
        time_s: float | None = None,
        trials_each: int = 100,
    ) -> None:
        """Set the limits of each trial.

        memory_bytes: what a model may take beyond the process' own 100 MB; held on Linux alone.
        cpu_s: its CPU time, which is the same on a busy machine. time_s: how long it may take
        altogether, for one that waits; None: far longer.
        """
        self.memory_bytes = memory_bytes
        self._cpu_s = cpu_s
        self._time_s = cpu_s * _TIMES + _LONGER_S if time_s is None else time_s
        self._trials_each = trials_each
        self._lock = Lock()
        self._process: _Process | None = None

    def run(
        self, path: Path, content: ModelBytes, *, general: bool = False, unproven: bool = False
    ) -> bool:
        """Return if onnxruntime loads the bytes of a file and it answers as `replay.prove` asks.

        Returns whether it may be called with no rows: some operators of onnxruntime end their
        process then, although they answer a call of one row.

        general: Whether operators of a graph are allowed that crash at some numbers.
        unproven: Whether the file may answer none of the inputs that are tried.
        Raises TrialError.
        """
        request = {"path": str(path), "general": general, "unproven": unproven}
        with self._lock:
            ended = self._try(request | {"empty": True}, content)
            takes_none = ended.doing == trial_process.TUNING
            if ended.doing == trial_process.EMPTY and not ended.reusable:
                ended = self._try(request | {"empty": False}, content)
        if ended.reason:
            raise TrialError(ended.reason, may_pass=ended.may_pass)
        return takes_none

    def _try(self, request: Mapping[str, object], content: ModelBytes) -> "_TrialEnd":
        if self._process is None or not self._process.usable(self._trials_each):
            self._stop()
            self._process = _Process(self.memory_bytes, self._cpu_s, self._time_s)
        reusable = False
        try:
            ended = self._process.try_file(request, content)
            reusable = ended.reusable
        finally:
            if not reusable:
                self._stop()
        return ended

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


class _TrialEnd(NamedTuple):
    """How a trial ended."""

    reason: str
    """The reason why the model did not pass; empty if it did."""
    reusable: bool
    """Whether the process can be used again."""
    doing: str
    """What the process was doing then."""
    may_pass: bool = False
    """Whether another trial of the same file may end otherwise."""


class _Process:
    """A running `trial_process`; requests and replies are lines of JSON."""

    def __init__(self, memory_bytes: int, cpu_s: float, time_s: float) -> None:
        """Start it and wait until it is ready; raises TrialError if it does not start."""
        self._cpu_s = cpu_s
        self._time_s = time_s
        self._trials = 0
        self._unread = b""
        # -P: nothing is imported from the current folder, which may be a model's.
        command = [sys.executable, "-P", "-m", trial_process.__name__]
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = subprocess.Popen(  # noqa: S603 - ours, and no shell
                    [*command, str(memory_bytes), str(cpu_s), str(time_s)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    # Ctrl-C is meant for the server, which ends this process itself.
                    process_group=0,
                )
        except OSError as error:
            self._socket.close()
            why = f"no process for trials can be started ({error.strerror})"
            raise TrialError(why, may_pass=True) from error
        try:
            self._receive(monotonic() + _START_S)
        except (OSError, ValueError) as error:
            self.stop()
            why = "the process for trials does not start; see stderr"
            raise TrialError(why, may_pass=True) from error

    def usable(self, trials: int) -> bool:
        """Whether it is alive and has had fewer than so many trials."""
        return self._child.poll() is None and self._trials < trials

    def try_file(self, request: Mapping[str, object], content: ModelBytes) -> _TrialEnd:
        """Try a file; a reason for which the process is over includes what it was doing then."""
        self._trials += 1
        deadline = monotonic() + self._time_s
        doing = trial_process.LOADING
        try:
            self._socket.settimeout(self._time_s)
            line = json.dumps(request).encode() + b"\n"
            # By a name of its own, so that this process' place in the bytes stays where it is.
            with open(content.path, "rb", buffering=0) as readable:
                sent = socket.send_fds(self._socket, [line], [readable.fileno()])
            self._socket.sendall(line[sent:])
            while True:
                reply = self._receive(deadline)
                if "doing" not in reply:
                    return _TrialEnd(reply["reason"], reply["reusable"], doing, reply["may_pass"])
                doing = reply["doing"]
        except TimeoutError:
            reason = f"{doing} took longer than {self._time_s:g} s, on a machine that is busy"
            return _TrialEnd(reason, False, doing, True)
        except (OSError, ValueError, LookupError):
            return self._ended(doing)

    def kill(self) -> None:
        """End it, whatever it does; a trial that runs fails."""
        self._child.kill()

    def stop(self) -> None:
        """Kill it, wait for its end and close the connection."""
        self._child.kill()
        self._child.wait()
        self._socket.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        """Read a line; raises TimeoutError at the deadline, OSError if no line will come."""
        while b"\n" not in self._unread:
            self._socket.settimeout(max(0.001, deadline - monotonic()))
            piece = self._socket.recv(_LARGEST_REPLY)
            if not piece or len(self._unread) > _LARGEST_REPLY:
                raise ConnectionError
            self._unread += piece
        line, self._unread = self._unread.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ended(self, doing: str) -> _TrialEnd:
        """Return how a trial ended that ended its process."""
        self._child.kill()
        code = self._child.wait()
        if code == -signal.SIGPROF:
            longer = f"{doing} took longer than {self._cpu_s:g} s of CPU time"
            reason = f"{longer}; have the operator raise --trial-s if it may"
            return _TrialEnd(reason, False, doing, True)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = f"{doing} ended the process of its trial ({how})"
        # By the system, where memory runs out: it is no more than the trial may take.
        return _TrialEnd(reason, False, doing, code == -signal.SIGKILL)
