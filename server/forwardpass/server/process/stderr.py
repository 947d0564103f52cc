"""stderr behind a queue: whoever writes a line never waits for whoever reads it."""

import faulthandler
import logging
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Event, Thread

_STDERR = 2
_MAX_BYTES = 2**22
"""Maximum size of the lines that are not written yet, in bytes; later ones are dropped."""
_MAX_LINE_BYTES = 2**16
"""Maximum size of a line of others, in bytes; a longer one is cut in two."""
_READ_BYTES = 2**16
_WRITTEN_BYTES = select.PIPE_BUF
"""Maximum size of a write, in bytes: lines that fit are not mixed with those of other processes
that write to the same pipe."""
_DRAIN_S = 1.0
"""Maximum time for what is left when the process ends, in seconds."""
_END = b"\0end of stderr\0"


class Stderr:
    """Writes lines in a thread of its own."""

    def __init__(self, note: Callable[[int], str], on_dropped: Callable[[int], object]) -> None:
        """Begin.

        note: Makes the line that is written after so many were dropped. on_dropped: Called with
        the number of lines that are dropped now.
        """
        self._note = note
        self._on_dropped = on_dropped
        self._to = _duplicate()
        self._changed = Condition()
        # Guarded by it.
        self._lines: deque[bytes] = deque()
        self._unwritten = 0
        """Bytes of the lines that wait or are being written."""
        self._dropped = 0
        """Lines that were dropped and that no note has counted."""
        self._pipe: int | None = None
        """Where others write to, once they are captured."""
        self._ended = Event()
        # A crash cannot wait for a thread: its traceback goes past the queue, as text.
        faulthandler.enable(file=self._to)
        Thread(target=self._write, name="stderr", daemon=True).start()

    def put(self, line: str) -> None:
        """Have a line written; drop it if too much waits already."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            fits = self._unwritten + len(data) <= _MAX_BYTES
            if fits:
                self._lines.append(self._noted() + data)
                self._unwritten += len(self._lines[-1])
            else:
                self._dropped += 1
            self._changed.notify_all()
        if not fits:
            self._on_dropped(1)

    def capture(self, wrap: Callable[[str], str | None]) -> None:
        """Have what others write to the descriptor of stderr written as lines, too.

        C++ libraries, Python's own warnings and child processes write there. wrap: makes a line
        for the log of one of theirs, or None to leave it out.
        """
        ours, self._pipe = os.pipe()
        os.dup2(self._pipe, _STDERR)
        Thread(target=self._read, args=(ours, wrap), name="captured stderr", daemon=True).start()

    def drain(self, within_s: float = _DRAIN_S) -> None:
        """Write what waits, as far as there is time; others write to stderr itself again."""
        if self._pipe is not None:
            os.dup2(self._to, _STDERR)
            os.write(self._pipe, _END + b"\n")
            self._ended.wait(within_s)
        with self._changed:
            self._changed.wait_for(lambda: not self._unwritten, within_s)

    def _noted(self) -> bytes:
        """Return the line that is due before the next one; empty if none was dropped."""
        dropped, self._dropped = self._dropped, 0
        return f"{self._note(dropped)}\n".encode() if dropped else b""

    def _read(self, ours: int, wrap: Callable[[str], str | None]) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(ours, _READ_BYTES)).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                text, end, _ = line.partition(_END)
                if text or not end:
                    self._put_foreign(text.decode("utf-8", "replace"), wrap)
                if end:
                    self._ended.set()

    def _put_foreign(self, text: str, wrap: Callable[[str], str | None]) -> None:
        try:
            line = wrap(text)
        except Exception:
            # The thread has to go on: others would wait for it once the pipe is full.
            self._on_dropped(1)
            return
        if line is not None:
            self.put(line)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._dropped)
                data = self._batch()
            self._write_out(memoryview(data))
            with self._changed:
                self._unwritten -= len(data)
                self._changed.notify_all()

    def _batch(self) -> bytes:
        """Take the next lines; what was dropped after the last one is noted there."""
        lines, size = [], 0
        while self._lines and size < _WRITTEN_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        if not self._lines and self._dropped:
            lines.append(self._noted())
            self._unwritten += len(lines[-1])
        return b"".join(lines)

    def _write_out(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._to, data[:_WRITTEN_BYTES]) :]
            except BlockingIOError:
                # Whoever gave us stderr did not want to wait for it either.
                writable = select.poll()
                writable.register(self._to, select.POLLOUT)
                writable.poll()
            except OSError:
                # Nobody will ever read it.
                self._on_dropped(bytes(data).count(b"\n"))
                return


class QueuedHandler(logging.Handler):
    """Writes the log to a `Stderr`; its end waits for what is left."""

    def __init__(self, stderr: Stderr) -> None:
        super().__init__()
        self._stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record."""
        try:
            self._stderr.put(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what is left, as far as there is time."""
        self._stderr.drain()
        super().close()


class DirectHandler(logging.Handler):
    """Writes the log to stderr without a thread, and never waits: what has no room is dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            data = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            writable = select.poll()
            writable.register(_STDERR, select.POLLOUT)
            if writable.poll(0):
                os.write(_STDERR, data[:_WRITTEN_BYTES])
        except OSError:
            # Nobody will ever read it.
            return


def _duplicate() -> int:
    with suppress(OSError):
        return os.dup(_STDERR)
    # There is no stderr.
    return os.open(os.devnull, os.O_WRONLY)
