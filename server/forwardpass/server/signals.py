"""The signals that end a server."""

import signal
import socket

_ENDING = (signal.SIGTERM, signal.SIGINT)


class EndingSignals:
    """SIGTERM and SIGINT from now on, in the order in which they come; for the main thread.

    Python runs a handler between two steps of the program, so a signal that comes when the main
    thread is just about to wait for a lock or a queue is told to nobody, and a server would stay
    until it is killed. A socket that the signal itself writes to misses none.
    """

    def __init__(self) -> None:
        self._received, self._sent = socket.socketpair()
        self._sent.setblocking(False)
        signal.set_wakeup_fd(self._sent.fileno())
        for number in _ENDING:
            # Any handler of Python's makes the signal write.
            signal.signal(number, lambda *_: None)

    def next(self) -> signal.Signals:
        """Wait for the next signal and return it."""
        self._received.settimeout(None)
        return self._receive()

    def next_within(self, seconds: float) -> signal.Signals | None:
        """Return the next signal; None if there is none within the time, which is above 0."""
        self._received.settimeout(seconds)
        try:
            return self._receive()
        except TimeoutError:
            return None

    def _receive(self) -> signal.Signals:
        return signal.Signals(self._received.recv(1)[0])
