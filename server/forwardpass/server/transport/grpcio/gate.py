"""Counts the calls in flight and refuses new ones when the server ends."""

from threading import Condition
from types import TracebackType

from forwardpass.server.errors import ShuttingDownError


class Gate:
    """A context around every call; closed when the server ends."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._in_flight = 0
        self._closed = False

    def __enter__(self) -> None:
        """Admit a call; raises ShuttingDownError once the gate is closed."""
        with self._changed:
            if self._closed:
                raise ShuttingDownError
            self._in_flight += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._in_flight -= 1
            if self._closed:
                self._changed.notify_all()

    def close(self, within_s: float) -> bool:
        """Admit no more calls; return whether those in flight ended within the time."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._in_flight, within_s)
