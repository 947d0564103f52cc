"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

TIMEOUT_S = 60.0


def eventually(holds: Callable[[], object]) -> None:
    """Wait until it holds; fail after a time that only something broken takes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
