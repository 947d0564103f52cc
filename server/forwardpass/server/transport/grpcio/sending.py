"""Answers over grpcio, from before they are computed until their callers have taken them.

grpcio keeps an answer, and a copy of it, until the caller has taken all of it, and says nothing
before: only that the call has ended, or was cancelled.
"""

from collections import Counter
from math import ceil
from threading import Lock
from time import monotonic

import grpc

from forwardpass.server.errors import MemoryFullError
from forwardpass.server.transport.grpcio.receiving import LARGE_BYTES, Receiving

_COPIES = 2
"""Of an answer: the one that grpcio was given, and its own."""
_CALL_BYTES = 2**14
"""What a call takes in grpcio that has not ended, in bytes."""
_TAKEN_BYTES = 2**20
"""What a caller has to take in the time that there is for it."""
_LOOK_S = 0.5
"""Time between two looks whether callers take their answers, in seconds."""
_FAIR_S = 10.0
"""An answer that is not read for longer leaves its memory to others who lack it."""


class SentAnswers:
    """All answers that callers have not taken."""

    def __init__(self, memory: Receiving, max_unread_s: float) -> None:
        """Begin.

        memory: Of requests and answers together. max_unread_s: For a caller to take 1 MiB.
        """
        self.memory = memory
        self._max_unread_s = max_unread_s
        # Entered and left by one step each, without a lock that every call would take.
        self.unread: dict[Answer, None] = {}
        """Those that are computed, or that grpcio has, the oldest first."""
        self.lacking = False
        """Whether a call was refused since the last look."""
        self.lock = Lock()
        """Guards the end of a call, which may come at any moment, and what is below."""
        self._of_peers: Counter[str] = Counter()
        """Bytes of large ones, by connection."""
        self._look_again = 0.0

    def answer(self, *, of_stream: bool = False) -> "Answer":
        """Return the memory of one call's answer, or of the answers of a stream."""
        return Answer(self, of_stream)

    def allow(self, answer: "Answer", peer: str) -> None:
        """Give a large answer the time that all of its connection take."""
        with self.lock:
            answer.peer, answer.large = peer, answer.size
            self._of_peers[peer] += answer.large
            answer.share = ceil(self._of_peers[peer] / _TAKEN_BYTES)

    def leave(self, answer: "Answer") -> None:
        """Take a large answer out of those of its connection."""
        with self.lock:
            peer, answer.peer = answer.peer, ""
            self._of_peers[peer] -= answer.large
            answer.large = 0
            if not self._of_peers[peer]:
                del self._of_peers[peer]

    def look(self) -> None:
        """Cancel the calls whose answers are taken too slowly."""
        now = monotonic()
        if now < self._look_again:
            return
        self._look_again = now + _LOOK_S
        unread = [answer for answer in list(self.unread) if answer.since]
        late = [each for each in unread if now - each.since > each.share * self._max_unread_s]
        if self.lacking:
            self.lacking = False
            # The largest first.
            old = [answer for answer in unread if now - answer.since > _FAIR_S]
            late += sorted(old, key=lambda answer: answer.size, reverse=True)[: len(old) // 2 + 1]
        for answer in late:
            answer.cancel()


class Answer:
    """The memory of the answer, or answers, of one call."""

    __slots__ = (
        "_of_stream",
        "_over",
        "_sending",
        "context",
        "large",
        "peer",
        "share",
        "since",
        "size",
    )

    def __init__(self, sending: SentAnswers, of_stream: bool) -> None:
        self._sending = sending
        self._of_stream = of_stream
        """Whether it is freed before the end of its call."""
        self._over = False
        self.context: grpc.ServicerContext | None = None
        """Its call; None before, and after its end."""
        self.peer = ""
        """Its connection, if it is large."""
        self.large = 0
        """Bytes that are counted for the connection."""
        self.size = 0
        """Bytes that are counted."""
        self.since = 0.0
        """When grpcio got it, on the clock of time.monotonic; 0: it has not."""
        self.share = 1
        """How many times as long as for 1 MiB the caller may take."""

    def promise(self, size: int) -> bool:
        """Count bytes of an answer that will be computed; return False if there is no room."""
        if self._over:
            # Nobody waits any more, and it is dropped when it is there.
            return True
        sending = self._sending
        size = _COPIES * size + _CALL_BYTES
        if not sending.memory.promise(size):
            sending.lacking = True
            return False
        if self.size:
            with sending.lock:
                # The call may end at this moment.
                over = self._over
                self.size += 0 if over else size
            if over:
                sending.memory.forget(size)
            return True
        self.size = size
        sending.unread[self] = None
        # Before the run: the call may end as soon as grpcio has its answer, and its thread would
        # only compete with the one that ends it.
        context = self.context
        if not (self._of_stream or context is None or context.add_callback(self._end)):
            self._end()
        return True

    def refusal(self) -> MemoryFullError:
        """Return the error of a call whose answer has no room."""
        return self._sending.memory.refusal()

    def sent(self) -> None:
        """Begin to look whether the caller takes the answer: grpcio has it now."""
        if self.size:
            self.since = monotonic()
            context = self.context
            if self.size >= LARGE_BYTES and context is not None:
                self._sending.allow(self, context.peer())
                if self._over and self.peer:
                    self._sending.leave(self)

    def free(self) -> None:
        """Give back what was promised: the answer was taken, or there is none."""
        with self._sending.lock:
            size, self.size = self.size, 0
        if size:
            self.since = 0.0
            self._sending.unread.pop(self, None)
            if self.peer:
                self.share = 1
                self._sending.leave(self)
            self._sending.memory.forget(size)

    def cancel(self) -> None:
        """End the call."""
        context = self.context
        if context is not None:
            context.cancel()

    def _end(self) -> None:
        self._over = True
        self.free()
        self.context = None
