"""The memory that requests take before they are answered, of all connections together."""

import mmap
import weakref
from collections import deque

import numpy as np

from forwardpass.server.transport.status import Outcome

_RESOURCE_EXHAUSTED = 8
_KEPT_BYTES = 2**24
"""Of rooms that wait to be used again: what is new to the process costs a page fault each 4 KiB."""
_ALIGNED_BYTES = 64


class RequestMemory:
    """Counts the bytes of requests that are not whole, and of large ones that are not answered.

    Has rooms for large messages, which take memory as they are filled.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        self._announced = 0
        """Bytes of the messages that have rooms."""
        self._left: deque[tuple[mmap.mmap, int]] = deque()
        """Rooms that nothing refers to any more, and of what messages they were; any thread's."""
        self._kept: dict[int, list[mmap.mmap]] = {}
        """Rooms to be used again, by their size."""
        self._kept_bytes = 0

    def room(self, size: int) -> memoryview | None:
        """Return memory for a message; None if too much was announced that may never come.

        It is used again when nothing refers to it any more. It ends where any datatype's
        elements may, and so the tensor at the end of a message begins where they may.
        """
        self.tidy()
        if self._announced + size > self._limit:
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
        """Keep some of the rooms that were left, and give the others' memory back."""
        while self._left:
            memory, size = self._left.popleft()
            self._announced -= size
            if self._kept_bytes + len(memory) <= _KEPT_BYTES:
                self._kept_bytes += len(memory)
                self._kept.setdefault(len(memory), []).append(memory)

    @property
    def full(self) -> bool:
        """Whether there is more than is allowed."""
        return self.used > self._limit

    def refusal(self) -> Outcome:
        """Return how the call ends that is too much."""
        return Outcome(
            _RESOURCE_EXHAUSTED,
            f"requests that are not answered yet take {self.used} bytes of the server's memory, "
            f"above {self._limit}; back off and try again",
        )
