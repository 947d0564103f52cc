"""Lines for a stderr that is read late, by nobody, or by somebody who went away."""

import fcntl
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.prepared import Prepared

PIPE_BYTES = 4096
LINE = "x" * 10_000
LINES = 600
"""More than wait together."""

FLOOD = f"""
import logging, sys
from forwardpass.server.process.stderr import QueuedHandler, Stderr

dropped = []
stderr = Stderr(lambda count: f"{{count}} dropped", dropped.append)
logging.basicConfig(handlers=[QueuedHandler(stderr)], format="%(message)s")
for number in range({LINES}):
    logging.error("%d %s", number, {LINE!r})
print(sum(dropped), flush=True)
if sys.stdin.readline():
    logging.error("last")
"""

CAPTURED = """
import faulthandler, logging, os, sys, warnings
from forwardpass.server.process.stderr import QueuedHandler, Stderr

stderr = Stderr(str, lambda _: None)
logging.basicConfig(handlers=[QueuedHandler(stderr)], format="%(message)s")
stderr.capture(lambda line: None if line == "secret" else f"<{line}>")
os.write(2, b"one\\ntwo")
os.write(2, b" halves\\nsecret\\n\\n")
logging.error("logged")
warnings.warn("heeded")
os.system("echo of a child >&2")
os.write(2, b"y" * 70_000 + b"\\n")
os.write(2, b"\\xff no newline")
"""


@contextmanager
def running(program: str, *, small: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    pipe = subprocess.PIPE
    with Prepared([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stderr is not None
        if small:
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            yield process
        finally:
            process.kill()


def assert_complete(lines: list[str], dropped: int) -> None:
    """Each line is there, or is counted where it would be."""
    at = 0
    for line in lines:
        note = re.fullmatch(r"(\d+) dropped", line)
        if note:
            at += int(note[1])
            dropped -= int(note[1])
        else:
            assert line == f"{at} {LINE}"
            at += 1
    assert (at, dropped) == (LINES, 0)


def test_what_nobody_reads_is_dropped_and_counted_and_the_rest_is_written_whole() -> None:
    with running(FLOOD, small=True) as process:
        assert process.stdout is not None
        dropped = int(process.stdout.readline())
        # Nobody has read a byte, and the program did not wait.
        assert 0 < dropped < LINES
        _, err = process.communicate(b"go on\n", timeout=20)

    *lines, last = err.decode().splitlines()
    assert last == "last"
    assert process.returncode == 0
    assert_complete(lines, dropped)


def test_a_process_ends_although_nobody_reads_what_is_left() -> None:
    with running(FLOOD, small=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()  # type: ignore[union-attr]  # piped
        assert process.wait(20) == 0


def test_a_reader_that_went_away_stops_nothing() -> None:
    with running(FLOOD) as process:
        process.stderr.close()  # type: ignore[union-attr]  # piped
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdin.close()  # type: ignore[union-attr]  # piped
        assert process.wait(20) == 0


def test_what_others_write_to_the_descriptor_becomes_lines_too() -> None:
    with running(CAPTURED) as process:
        _, err = process.communicate(timeout=20)

    lines = err.decode().splitlines()
    foreign = [line for line in lines if line.startswith("<")]
    assert foreign[:3] == ["<one>", "<two halves>", "<>"]
    assert re.search("<.*UserWarning: heeded>", err.decode())
    assert "<of a child>" in foreign
    assert sum(line.count("y") for line in foreign if set(line) == set("<y>")) == 70_000
    assert foreign[-1] == "<\ufffd no newline>"
    assert "logged" in lines
    assert "secret" not in err.decode()


def test_a_crash_leaves_its_traceback() -> None:
    with running(CAPTURED + "\nos.kill(os.getpid(), 11)") as process:
        _, err = process.communicate(timeout=20)

    assert process.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in err.decode()


def test_without_a_stderr_nothing_is_written_and_nothing_fails(tmp_path: Path) -> None:
    program = FLOOD.replace("import logging, sys", "import logging, os, sys\nos.close(2)")
    with warnings.catch_warnings(), running(program) as process:
        out, _ = process.communicate(b"", timeout=20)
    assert int(out) >= 0
    assert process.returncode == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stderr_that_does_not_block_is_waited_for(blocking: bool) -> None:
    program = f"import os; os.set_blocking(2, {blocking})\n{FLOOD}"
    with running(program, small=True) as process:
        assert process.stdout is not None
        dropped = int(process.stdout.readline())
        _, err = process.communicate(b"", timeout=20)
    assert process.returncode == 0
    assert_complete(err.decode().splitlines(), dropped)
