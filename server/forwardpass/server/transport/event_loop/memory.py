"""The memory of requests, and of answers until callers have read them, of all connections."""

import mmap
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol

import numpy as np

from forwardpass.server.errors import MemoryFullError, ServingError

_KEPT_BYTES = 2**24
"""Maximum size of the rooms kept for reuse, in bytes: new memory costs a page fault per 4 KiB."""
_ALIGNED_BYTES = 64
_RETRY_S = 0.5
"""When a caller may try again that found no memory, in seconds."""
_LOOK_SHARE = 10
_SHARE = 8
"""This share of the limit is for answers however much requests take, or none would be answered."""
_FAIR_S = 10.0
"""A caller that has not read its answers for longer leaves their memory to others who lack it."""


class AnswerReader(Protocol):
    """A connection, as one that reads answers."""

    @property
    def unread(self) -> int:
        """Bytes of answers that the caller has not taken."""

    @property
    def unread_since(self) -> float | None:
        """When it last had taken all of them, on the clock of time.monotonic; None: it has now."""

    def abort(self) -> None:
        """Close at once."""


class RequestMemory:
    """Counts the bytes of incomplete requests, of large ones that are not answered, and of answers.

    Answers count from before they are computed, so that no burst exceeds the limit: as promised
    until they are written, and as unread until it is looked the next time what callers have read.

    Provides rooms for large messages, which take memory as they are filled.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        self.unread = 0
        """Bytes of answers that callers had not taken when it was looked last, and of all since."""
        self.promised = 0
        """Maximum bytes of the answers that are computed now."""
        self._look_again = self._free_again = 0.0
        """When it may be looked again, and connections closed, on the clock of time.monotonic."""
        self.readers: Callable[[], Iterable[AnswerReader]] = tuple
        """Returns the connections."""
        self._announced = 0
        """Bytes of all messages that have rooms."""
        self._left: deque[tuple[mmap.mmap, int]] = deque()
        """Rooms without references, each with its message's size; any thread may append."""
        self._kept: dict[int, list[mmap.mmap]] = {}
        """Rooms for reuse, by size."""
        self._kept_bytes = 0

    def room(self, size: int) -> memoryview | None:
        """Return memory for a message; None if too much was announced already.

        It is reused when nothing refers to it. Its end is aligned for every datatype, so the tensor
        at the end of a message begins aligned as well.
        """
        self.tidy()
        if self._announced + self.unread + self.promised + size > self._limit and (
            self._lacks(size) or self._announced + self.unread + self.promised + size > self._limit
        ):
            return None
        # Powers of two, so that messages of about one size share their rooms.
        whole = 1 << (size + _ALIGNED_BYTES - 1).bit_length()
        rooms = self._kept.get(whole)
        if rooms:
            memory = rooms.pop()
            self._kept_bytes -= whole
        else:
            memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._announced += size
        part = np.frombuffer(memory, np.uint8, size, -size % _ALIGNED_BYTES)
        weakref.finalize(part, self._left.append, (memory, size)).atexit = False
        return part.data

    def tidy(self) -> None:
        """Keep some unused rooms, and free the others."""
        while self._left:
            memory, size = self._left.popleft()
            self._announced -= size
            if self._kept_bytes + len(memory) <= _KEPT_BYTES:
                self._kept_bytes += len(memory)
                self._kept.setdefault(len(memory), []).append(memory)

    @property
    def full(self) -> bool:
        """Whether requests and answers take more memory than allowed."""
        return self._lacks(0)

    def promise(self, size: int) -> bool:
        """Count the bytes of answers that will be computed; return False if there is no room.

        A single answer has room whatever its size.
        """
        if self.promise_all(size):
            return True
        if self.unread + self.promised:
            self._free()
            return False
        self.promised += size
        return True

    def promise_all(self, size: int) -> bool:
        """Count the bytes of several answers; return False if there is no room for all of them."""
        answers = self.unread + self.promised + size
        if self.used + answers > self._limit and self._lacks(size):
            answers = self.unread + self.promised + size
            if answers > self._limit // _SHARE:
                return False
        self.promised += size
        return True

    def keep(self, size: int) -> None:
        """Count promised bytes as those of answers that are written and may be unread."""
        self.promised -= size
        self.unread += size

    def look(self) -> None:
        """Count what callers have not read."""
        self.unread = sum(reader.unread for reader in self.readers())

    def _lacks(self, size: int) -> bool:
        if self.used + self.unread + self.promised + size <= self._limit:
            return False
        now = monotonic()
        if now >= self._look_again:
            self.look()
            # Many connections, and calls that are refused, take no more than a part of the time.
            self._look_again = now + _LOOK_SHARE * (monotonic() - now)
        return self.used + self.unread + self.promised + size > self._limit

    def _free(self) -> None:
        """Close connections that have kept answers for long until half of the limit is free."""
        now = monotonic()
        if now < self._free_again:
            return
        self._free_again = now + _RETRY_S
        left = self.unread
        slow = [
            reader
            for reader in self.readers()
            if reader.unread_since is not None and now - reader.unread_since > _FAIR_S
        ]
        for reader in sorted(slow, key=lambda reader: reader.unread, reverse=True):
            if left <= self._limit // 2:
                break
            left -= reader.unread
            reader.abort()

    def refusal(self) -> ServingError:
        """Return the error of a call that is refused for lack of memory."""
        taken = self.used + self.unread + self.promised
        return MemoryFullError(taken, self._limit, _RETRY_S)
