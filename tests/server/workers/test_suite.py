"""Tests of the server's RPCs and transports, over two processes in place of one.

They run in a pytest of their own, whose `Server` is two processes (`support.many`).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SERVER = Path(__file__).parents[1]
FILES = [
    "access/test_authenticator.py",
    "rpc/test_bad_calls.py",
    "rpc/test_bad_requests.py",
    "rpc/test_bad_tensors.py",
    "rpc/test_classification.py",
    "rpc/test_infer.py",
    "rpc/test_service.py",
    "rpc/test_stream.py",
    "rpc/triton/test_cuda_shared_memory.py",
    "rpc/triton/test_model_config.py",
    "rpc/triton/test_shared_memory.py",
    "rpc/triton/test_unsupported.py",
    "test_health.py",
    "transport/test_compressed.py",
    "transport/test_reflection.py",
    "transport/test_tls.py",
]
INSIDE = (
    "stops_answers_what_it_read",
    "sees_draining_while_calls",
    "watchers_that_leave",
    "leaves_no_thread_behind",
    "logged_at_the_start",
    "is_refused_at_the_start",
    "does_not_start_without",
    "bytes_elements_take_memory_by",
    # The runs at a time are those of a worker, which has its share of the CPUs.
    "is_batched_reports_how",
)
"""Tests of these files that reach inside of their server, or that make it in a process."""


@pytest.mark.parametrize("file", FILES)
def test_over_two_processes(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "-k", f"not ({' or '.join(INSIDE)})", str(SERVER / file)],
        env={**os.environ, "TEST_PROCESSES": "2"},
        cwd=SERVER.parents[1],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
