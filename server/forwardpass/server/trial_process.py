"""The process in which models are tried: `python -m forwardpass.server.trial_process`.

Takes a line of JSON for each trial from stdin, {"path", "general"}, and answers on stdout with
lines of {"doing"} and a last one of {"reason", "reusable"}. Ends with the process at the other
end.
"""

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

import onnx
from numpy.typing import NDArray

from forwardpass.server.guard.division import check_divisions
from forwardpass.server.proof import prove
from forwardpass.server.runtime import Session, SessionError
from forwardpass.server.tuning import tune

LOADING = "loading it"
ANSWERING = "answering its samples, or a row where it has none,"
TUNING = "running many rows at once"

_STATUS = Path("/proc/self/status")


def main() -> None:
    """Try models until stdin ends; the arguments are the memory in bytes and the deadline in s."""
    memory_bytes, deadline_s = int(sys.argv[1]), float(sys.argv[2])
    replies = _silence()
    requests = _requests()
    _send(replies, {"doing": "waiting"})
    while True:
        request = requests.get()
        _limit(memory_bytes, deadline_s)
        answer = _try(Path(request["path"]), request["general"], memory_bytes, replies)
        signal.alarm(0)
        _send(replies, answer)


def _try(path: Path, general: bool, memory_bytes: int, replies: TextIO) -> dict[str, object]:
    """Do with a file what the server does when it loads it."""
    doing = LOADING
    try:
        _send(replies, {"doing": doing})
        model = onnx.load(path, load_external_data=False)
        if not general:
            check_divisions(model)
        session = _TriedSession(path)
        doing = ANSWERING
        _send(replies, {"doing": doing})
        prove(session)
        doing = TUNING
        _send(replies, {"doing": doing})
        tune(session, model.graph)
    # Whatever it is, it is the model's fault: nothing else runs here.
    except Exception as error:
        if _is_out_of_memory(error):
            more = f"{doing} took more than {memory_bytes / 2**20:g} MiB of memory"
            fix = "have the operator raise --trial-memory-bytes if it may"
            return {"reason": f"{more}; {fix}", "reusable": False}
        failed = isinstance(error, SessionError) and doing != LOADING
        return {"reason": f"onnxruntime failed {error}" if failed else str(error), "reusable": True}
    return {"reason": "", "reusable": True}


class _TriedSession(Session):
    """A session that tells a run that had no memory from one that failed otherwise."""

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        try:
            return super().run(feeds, outputs)
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
    """Leave stdout to the replies, and nothing to what a native library prints."""
    replies = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    return replies


def _requests() -> "SimpleQueue[dict[str, Any]]":
    """Read the requests in a thread, which sees in the middle of a trial that no more come."""
    requests: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        os._exit(0)

    Thread(target=read, daemon=True).start()
    return requests


def _limit(memory_bytes: int, deadline_s: float) -> None:
    """Bound what the next trial may take, counted from what the process takes now."""
    # The parent kills at the deadline; this is for a trial that outlives the parent, in a loop
    # that does not let the thread that would see it run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(deadline_s) + 5)
    # A crash shall not write its gigabytes to disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not _STATUS.exists():
        return
    # RLIMIT_DATA counts what can be written and is not shared. RLIMIT_AS would count files that
    # are mapped, and the 64 MiB of addresses that glibc reserves for each thread, as well.
    used = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = int(used.split()[1]) * 1024 + memory_bytes
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def _send(replies: TextIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
