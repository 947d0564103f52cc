"""The `forwardpass` command: as a process of its own, or, for many small cases, in this one.

Most processes are forked from one that has imported everything (`support.prepared`).
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from forwardpass.cli.__main__ import main
from support.prepared import Prepared

COMMAND = (sys.executable, "-m", "forwardpass.cli")
READY = "ready on "
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The single line of error of a command that failed."""
        (line,) = self.stderr.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def run(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    columns: int = 200,
    program: tuple[str, ...] | None = None,
) -> Finished:
    """Run the command to its end as a process; env: variables to set in addition.

    program: the command that starts an interpreter; None: a prepared one.
    """
    with started(
        *arguments,
        program=program,
        cwd=cwd,
        env=environment(env, columns),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    return Finished(process.returncode, out, err)


def started(
    *arguments: str | Path, program: tuple[str, ...] | None = None, **options: Any
) -> "subprocess.Popen[Any]":
    """Start the command; the options are Popen's.

    program: the command that starts an interpreter; None: a prepared one, unless the test sets what
    Python reads as it starts.
    """
    env = options.get("env") or {}
    early = any(name.startswith("PYTHON") and env[name] != os.environ.get(name) for name in env)
    start = subprocess.Popen if program or early else Prepared
    return start([*(program or COMMAND), *map(str, arguments)], **options)


def run_here(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    columns: int = 200,
) -> Finished:
    """Run the command as `run` does, in this process: half a second faster.

    For commands that leave no state behind in a process: neither `serve` nor `demo`.
    """
    out, err = StringIO(), StringIO()
    with (
        chdir(cwd or Path.cwd()),
        patch.dict(os.environ, environment(env, columns), clear=True),
        patch.object(sys, "argv", ["forwardpass", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return Finished(int(end.value.code or 0), out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Serving:
    """`forwardpass serve`, ready."""

    process: subprocess.Popen[str]
    target: str
    said: str
    """Its output on stdout before it was ready."""


@contextmanager
def serving(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    program: tuple[str, ...] | None = None,
) -> Iterator[Serving]:
    """Run `forwardpass serve` with these arguments while the block runs; kill it at the end.

    log: the file for its stderr; None: discarded. After the timeout it is killed in any case.
    program: the command that starts an interpreter; None: a prepared one.
    """
    with (
        Path(log or os.devnull).open("w") as stderr,
        started(
            "serve",
            *arguments,
            program=program,
            cwd=cwd,
            env=environment(env),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        too_long = threading.Timer(timeout_s, process.kill)
        too_long.start()
        try:
            said = []
            for line in process.stdout or ():
                if line.startswith(READY):
                    break
                said.append(line)
            else:
                raise AssertionError(f"serve ended with {process.wait()}: {''.join(said)}")
            yield Serving(process, line.removeprefix(READY).strip(), "".join(said))
        finally:
            too_long.cancel()
            process.kill()


def environment(extra: Mapping[str, str] | None = None, columns: int = 200) -> dict[str, str]:
    """Return this process' environment without Forwardpass' variables, and with the extra."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FORWARDPASS")}
    return kept | {"COLUMNS": str(columns), "NO_COLOR": "1"} | dict(extra or {})
