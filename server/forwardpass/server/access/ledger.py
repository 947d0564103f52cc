"""What callers have used of their quotas in all processes of one server, in memory that they share.

A lock of a file range guards each entry: the system ends it with its process, so that one that is
killed leaves nothing locked.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from threading import Lock
from time import monotonic

from forwardpass.server.access.quota import Quota

_ENTRIES = 4096
"""Maximum tokens and certificates with limits, those of earlier files included."""
_KEY_BYTES = 16
_BUCKET = struct.Struct("dd")
"""Calls that are left, and when they were counted, on the clock of time.monotonic."""
_HEAD_BYTES = _KEY_BYTES + _BUCKET.size


class Ledger:
    """The entries; made before the processes are forked."""

    def __init__(self, processes: int) -> None:
        """Begin without entries, for so many processes."""
        self._entry_bytes = _HEAD_BYTES + 8 * processes
        self._memory = mmap.mmap(-1, _ENTRIES * self._entry_bytes)
        self._file = os.memfd_create("quotas")
        self._counts = memoryview(self._memory).cast("q")
        self.number = 0
        """Which of the processes this is."""
        # Locks of file ranges are those of the whole process.
        self._lock = Lock()

    def quota(
        self, key: str, caller: str, calls_per_s: float | None, max_in_flight: int | None
    ) -> Quota:
        """Return the quota of a token or certificate; key: What the caller shows.

        With more entries than there is room for, each process has the limits for itself.
        """
        shown = f"{key} {calls_per_s} {max_in_flight}".encode()
        entry = self._find(sha256(shown).digest()[:_KEY_BYTES])
        if entry is None:
            return Quota(caller, calls_per_s, max_in_flight)
        return SharedQuota(self, entry, caller, calls_per_s, max_in_flight)

    def clear(self, number: int) -> None:
        """Forget the calls in flight of a process that has ended."""
        for entry in range(_ENTRIES):
            start = entry * self._entry_bytes
            if not any(self._memory[start : start + _KEY_BYTES]):
                continue
            self._counts[self._first(entry) + number] = 0

    def in_flight(self, entry: int) -> int:
        """Return the calls in flight of an entry in all processes."""
        first = self._first(entry)
        return sum(self._counts[first : first + self._processes])

    def count(self, entry: int, calls: int) -> None:
        """Change the calls in flight of an entry in this process."""
        with self._lock:
            self.add(entry, calls)

    def add(self, entry: int, calls: int) -> None:
        """Change them while the entry is locked."""
        self._counts[self._first(entry) + self.number] += calls

    def bucket(self, entry: int) -> tuple[float, float]:
        """Return the calls that are left, and when they were counted; 0, 0 at first."""
        left, filled = _BUCKET.unpack_from(self._memory, entry * self._entry_bytes + _KEY_BYTES)
        return left, filled

    def put_bucket(self, entry: int, left: float, filled: float) -> None:
        """Replace both."""
        start = entry * self._entry_bytes + _KEY_BYTES
        _BUCKET.pack_into(self._memory, start, left, filled)

    @contextmanager
    def locked(self, entry: int) -> Iterator[None]:
        """Keep all other threads and processes from an entry."""
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, entry)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, entry)

    @property
    def _processes(self) -> int:
        return (self._entry_bytes - _HEAD_BYTES) // 8

    def _first(self, entry: int) -> int:
        return (entry * self._entry_bytes + _HEAD_BYTES) // 8

    def _find(self, key: bytes) -> int | None:
        with self.locked(_ENTRIES):
            for step in range(_ENTRIES):
                entry = (int.from_bytes(key[:4], "big") + step) % _ENTRIES
                start = entry * self._entry_bytes
                found = self._memory[start : start + _KEY_BYTES]
                if found == key:
                    return entry
                if not any(found):
                    self._memory[start : start + _KEY_BYTES] = key
                    return entry
        return None


class SharedQuota(Quota):
    """A quota whose use is counted in a ledger."""

    def __init__(
        self,
        ledger: Ledger,
        entry: int,
        caller: str,
        calls_per_s: float | None,
        max_in_flight: int | None,
    ) -> None:
        super().__init__(caller, calls_per_s, max_in_flight)
        self._ledger = ledger
        self._entry = entry

    @property
    def in_flight(self) -> int:
        """Calls that have entered and not left, in all processes."""
        return self._ledger.in_flight(self._entry)

    def enter(self) -> None:
        """Begin a call; see `Quota`."""
        ledger, entry = self._ledger, self._entry
        with ledger.locked(entry):
            self._left, self._filled = ledger.bucket(entry)
            if not self._filled:
                self._left, self._filled = self._most, monotonic()
            self._in_flight = ledger.in_flight(entry)
            try:
                self._take()
            finally:
                ledger.put_bucket(entry, self._left, self._filled)
            ledger.add(entry, 1)

    def leave(self) -> None:
        """End a call."""
        self._ledger.count(self._entry, -1)
