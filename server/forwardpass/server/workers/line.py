"""The line between the supervisor and one of its processes: short messages, both ways.

The supervisor has no thread: it reads the lines of all processes in turns. A process reads its own
in a thread, and ends when the supervisor has gone.
"""

import logging
import os
import pickle
import socket
from collections.abc import Callable, Mapping, Sequence
from threading import Lock, Thread
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

DRAIN, FINISH, REREAD = "drain", "finish", "reread"
"""What the supervisor says: report not ready; end; look at all files."""
DONE, READY, FAILED, STATE, LOG = "done", "ready", "failed", "state", "log"
"""What a process says: done what was said; all is ready; the server cannot serve; what its
successor has to know; the log settings have changed."""
MODEL, OFFER = "model", "offer"
"""What the keeper says of models, for its successor: a recipe, with the bytes; what is offered."""

_LARGEST = 2**18
_INLINE = 2**16
"""Maximum size of what is sent in the message itself; what is larger is sent as a file."""
_FILE = b"file"


class Heard(NamedTuple):
    """A message."""

    what: str
    value: Any
    files: list[int]
    """Descriptors that came with it, of this process."""


def new_line() -> tuple[socket.socket, socket.socket]:
    """Return the supervisor's end and the process' end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST)
    ours.setblocking(False)
    return ours, theirs


def say(end: socket.socket, what: str, value: Any = None, files: Sequence[int] = ()) -> bool:
    """Send a message; return False if the other end has gone, or has no room for it.

    files: Descriptors, of which the other end gets its own.
    """
    data = pickle.dumps((what, value))
    written = -1
    try:
        if len(data) > _INLINE:
            written = os.memfd_create("message", os.MFD_CLOEXEC)
            with open(written, "wb", closefd=False) as file:
                file.write(data)
            data, files = _FILE, [written, *files]
        socket.send_fds(end, [data], list(files))
    except OSError:
        return False
    finally:
        if written >= 0:
            os.close(written)
    return True


def hear(end: socket.socket) -> Heard | None:
    """Return the next message; None at the end. Raises BlockingIOError if there is none yet."""
    try:
        data, files, _, _ = socket.recv_fds(end, _LARGEST, 2)
        if data == _FILE:
            with open(files.pop(0), "rb") as written:
                written.seek(0)
                data = written.read()
    except BlockingIOError:
        raise
    except OSError:
        return None
    except IndexError:
        # There was no descriptor left for the file: the message is lost.
        return Heard("", None, [])
    if not data:
        return None
    for file in files:
        os.set_inheritable(file, False)
    what, value = pickle.loads(data)  # noqa: S301 - of a process of ours
    return Heard(what, value, files)


class Line:
    """The process' end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = Lock()

    def say(self, what: str, value: Any = None, files: Sequence[int] = ()) -> None:
        """Tell the supervisor; files: see `say`."""
        with self._lock:
            say(self._end, what, value, files)

    def obey(self, orders: Mapping[str, Callable[[], None]]) -> None:
        """Do what the supervisor says, each order in a thread of its own; end when it has gone."""
        Thread(target=self._obey, args=(orders,), name="orders", daemon=True).start()

    def _obey(self, orders: Mapping[str, Callable[[], None]]) -> None:
        while (heard := hear(self._end)) is not None:
            what = heard.what
            Thread(target=self._do, args=(what, orders[what]), name=what, daemon=True).start()
        # Nobody can say any more when to end, nor start this process again.
        os._exit(1)

    def _do(self, what: str, order: Callable[[], None]) -> None:
        try:
            order()
        except Exception:
            logger.exception("%s: it could not be done", what)
        self.say(DONE, what)
