"""The process in which models are tried: `python -m forwardpass.server.repository.trial_process`.

Takes a line of JSON for each trial from the socket that is its stdin, {"path", "general",
"unproven", "empty"}, with a descriptor of the file's bytes. Answers on stdout with lines of
{"doing"} and a last one of {"reason", "reusable", "may_pass"}. Ends with the process at the other
end, and by SIGPROF if a trial takes more CPU time than it may.
"""

import json
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

from numpy.typing import NDArray

from forwardpass.server.engine.replay import NoAnswerError, no_rows, other_rows, prove, prove_steady
from forwardpass.server.engine.session import Session, SessionError
from forwardpass.server.engine.tuning import tune
from forwardpass.server.guard.canonical import canonicalize
from forwardpass.server.guard.division import check_divisions
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.guard.parse import parse
from forwardpass.server.process.memory import give_back, room

LOADING = "loading it"
ANSWERING = "answering its samples, or a row where it has none,"
REPEATING = "answering again after other rows"
EMPTY = "answering again after no rows"
TUNING = "running many rows at once"

LARGEST_REQUEST = 2**16

_STATUS = Path("/proc/self/status")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_SPARE_BYTES = 2**25
"""Left to the server where a trial may take all other memory."""


def main() -> None:
    """Try models until stdin ends; the arguments are maxima.

    Of memory in bytes, of CPU time and of time in seconds.
    """
    memory_bytes, cpu_s, time_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    replies = _silence()
    # Where memory runs out all the same, the system shall take this process and not the server.
    with suppress(OSError):
        _OOM_SCORE.write_text("1000")
    requests = _requests()
    _send(replies, {"doing": "waiting"})
    while True:
        request, content = requests.get()
        allowed = _limit(memory_bytes, cpu_s, time_s)
        with content:
            answer = _try(request, content, memory_bytes, allowed, replies)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        give_back()
        _send(replies, answer)


def _try(
    request: Mapping[str, Any],
    content: ModelBytes,
    memory_bytes: int,
    allowed: int,
    replies: TextIO,
) -> dict[str, object]:
    """Do with a file what the server does when it loads it; allowed: of the memory now."""
    path, doing = Path(request["path"]), LOADING
    try:
        _send(replies, {"doing": doing})
        model = parse(content, checked=True)
        canonicalize(model)
        if not request["general"]:
            check_divisions(model)
        session = _TriedSession(path, content)
        doing = ANSWERING
        _send(replies, {"doing": doing})
        answered = prove(session, model.graph)
        doing = REPEATING
        _send(replies, {"doing": doing})
        prove_steady(session, answered, other_rows(session, answered.inputs))
        if request["empty"]:
            doing = EMPTY
            _send(replies, {"doing": doing})
            prove_steady(session, answered, no_rows(session, answered.inputs))
        doing = TUNING
        _send(replies, {"doing": doing})
        tune(session, model.graph)
    # Whatever it is, it is the model's fault: nothing else runs here.
    except Exception as error:
        if isinstance(error, NoAnswerError) and request["unproven"]:
            return _PASSED
        if _is_out_of_memory(error):
            more = f"{doing} took more than {allowed / 2**20:.0f} MiB of memory"
            fix = "have the operator raise --trial-memory-bytes if it may"
            if allowed < memory_bytes:
                fix = f"all that is left to a trial, which may take {memory_bytes / 2**20:.0f} MiB"
            return _answer(f"{more}; {fix}", reusable=False, may_pass=allowed < memory_bytes)
        failed = isinstance(error, SessionError) and doing != LOADING
        reason = f"onnxruntime failed {error}" if failed else str(error)
        return _answer(reason)
    return _PASSED


def _answer(reason: str, *, reusable: bool = True, may_pass: bool = False) -> dict[str, object]:
    return {"reason": reason, "reusable": reusable, "may_pass": may_pass}


_PASSED = _answer("")


class _TriedSession(Session):
    """A session that distinguishes a run that had no memory from one that failed otherwise."""

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        wanted: Callable[[], bool] | None = None,
    ) -> list[NDArray[Any]]:
        try:
            return super().run(feeds, outputs, wanted)
        except SessionError as error:
            if _is_out_of_memory(error):
                raise MemoryError from error
            raise


def _is_out_of_memory(error: BaseException) -> bool:
    texts = f"{error} {error.__cause__}"
    return isinstance(error, MemoryError) or any(
        sign in texts for sign in ("bad_alloc", "bad allocation", "Failed to allocate memory")
    )


def _silence() -> TextIO:
    """Keep stdout for the replies; what native libraries print is discarded."""
    replies = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    return replies


def _requests() -> "SimpleQueue[tuple[dict[str, Any], ModelBytes]]":
    """Read the requests in a thread, which sees in the middle of a trial that no more come."""
    requests: SimpleQueue[tuple[dict[str, Any], ModelBytes]] = SimpleQueue()
    source = socket.socket(fileno=0)

    def read() -> None:
        line, descriptors = b"", []
        while True:
            piece, more, _, _ = socket.recv_fds(source, LARGEST_REQUEST, 1)
            if not piece:
                os._exit(0)
            line += piece
            descriptors += more
            # The next one comes when this one is answered.
            if line.endswith(b"\n"):
                requests.put((json.loads(line), ModelBytes(descriptors[0])))
                line, descriptors = b"", []

    Thread(target=read, daemon=True).start()
    return requests


def _limit(memory_bytes: int, cpu_s: float, time_s: float) -> int:
    """Bound what the next trial may take, counted from what the process takes now.

    Returns the memory, which may be less where the machine has less.
    """
    # CPU time, and that of this process alone: on a busy machine as much is done in it.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    # The parent kills at that time; this is for a trial that outlives the parent, and waits.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(time_s) + 5)
    # A crash shall not write its gigabytes to disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not _STATUS.exists():
        return memory_bytes
    # RLIMIT_DATA counts what can be written and is not shared. RLIMIT_AS would count files that
    # are mapped, and the 64 MiB of addresses that glibc reserves for each thread, as well.
    used = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # The last trial's does not count for this one.
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    left = room()
    allowed = memory_bytes
    if left is not None:
        allowed = min(allowed, max(0, left.free - _SPARE_BYTES))
    resource.setrlimit(resource.RLIMIT_DATA, (int(used.split()[1]) * 1024 + allowed, hard))
    return allowed


def _send(replies: TextIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
