"""The signals that a server receives: those that end it, and those that do not."""

import logging
import signal
import socket
from collections.abc import Callable, Mapping
from time import monotonic

logger = logging.getLogger(__name__)

ENDING = ("SIGTERM", "SIGINT", "SIGQUIT")
OTHERS = ("SIGHUP", "SIGUSR1", "SIGUSR2")
"""By name: not every platform has all."""


class Signals:
    """Receives the signals in order, from now on; for the main thread.

    Python runs handlers between two steps of the program. A signal that arrives just before the
    main thread waits for a lock or a queue would be missed, and the server would run until it is
    killed. A socket that the signal itself writes to misses none.
    """

    def __init__(self, others: Mapping[str, Callable[[], None]] | None = None) -> None:
        """Receive; others: what to do for a signal that does not end the server, by its name.

        It is done in the main thread while that waits, so it has to be fast.
        """
        self._others = others or {}
        self._received, self._sent = socket.socketpair()
        self._sent.setblocking(False)
        signal.set_wakeup_fd(self._sent.fileno())
        for name in {*ENDING, *OTHERS, *self._others}:
            if hasattr(signal, name):
                # Any Python handler makes the signal write to the socket.
                signal.signal(getattr(signal, name), lambda *_: None)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come, for selectors."""
        return self._received.fileno()

    def next(self) -> signal.Signals:
        """Wait for the next signal that ends the server, and return it."""
        while True:
            self._received.settimeout(None)
            if (received := self._receive()) is not None:
                return received

    def next_within(self, seconds: float) -> signal.Signals | None:
        """Return the next signal that ends the server; None if none comes in time.

        seconds: above 0.
        """
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0:
            self._received.settimeout(left)
            try:
                received = self._receive()
            except TimeoutError:
                return None
            if received is not None:
                return received
        return None

    def _receive(self) -> signal.Signals | None:
        """Receive a signal; return None if it was one of the others."""
        received = signal.Signals(self._received.recv(1)[0])
        if received.name in ENDING:
            return received
        if received.name in self._others:
            self._others[received.name]()
        elif received.name in OTHERS:
            logger.warning("%s: ignored; it has no meaning here", received.name)
        return None
