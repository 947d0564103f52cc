"""Clients to compare: each a process that makes calls of one row and prints the CPU of one.

Usage: python -m benchmarks.clients.NAME TARGET CALLS
"""

import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np

X = np.linspace(-1, 1, 30, dtype=np.float32).reshape(1, 30)
"""The row: of the network `small`."""

_WARM_UP = 200


def measure(connect: Callable[[str], Callable[[], np.ndarray]]) -> None:
    """Call what connect(target) returns, again and again; print microseconds of CPU a call."""
    call, calls = connect(sys.argv[1]), int(sys.argv[2])
    for _ in range(_WARM_UP):
        check(call())
    start = time.process_time()
    for _ in range(calls):
        call()
    print((time.process_time() - start) / calls * 1e6)


async def measure_async(call: Callable[[], Awaitable[np.ndarray]]) -> None:
    """Await the call again and again; print microseconds of CPU a call."""
    for _ in range(_WARM_UP):
        check(await call())
    calls = int(sys.argv[2])
    start = time.process_time()
    for _ in range(calls):
        await call()
    print((time.process_time() - start) / calls * 1e6)


def check(y: np.ndarray) -> None:
    """Raise AssertionError unless it is an answer of the network `small` to a row."""
    assert y.shape == (1, 2), y.shape
    assert y.dtype == np.float32, y.dtype
