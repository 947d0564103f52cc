"""The heaps that a process has, as glibc tells."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from forwardpass.server.process.allocator import limit_heaps

if {limited}:
    assert limit_heaps(2)
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(12)

def allocate():
    together.wait()
    for _ in range(200):
        libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_info(0, ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w")))
libc.fflush(None)
"""


@pytest.mark.parametrize(("limited", "few"), [(True, True), (False, False)])
def test_threads_share_two_heaps_once_they_are_limited(limited: bool, few: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(limited=limited)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.count("<heap nr=") <= 2) is few
