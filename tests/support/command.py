"""The `forwardpass` command: as a process of its own, or, for many small cases, in this one."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from forwardpass.cli.__main__ import main

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
        """The one line in which a command that failed says why."""
        (line,) = self.stderr.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def run(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    columns: int = 200,
    program: tuple[str, ...] = COMMAND,
) -> Finished:
    """Run the command to its end as a process; env is what the test wants to be set besides."""
    done = subprocess.run(
        [*program, *map(str, arguments)],
        cwd=cwd,
        env=environment(env, columns),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_here(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    columns: int = 200,
) -> Finished:
    """Run the command as `run` does, in this process: half a second sooner.

    For commands that leave nothing behind in a process: neither `serve` nor `demo`.
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
    """What it wrote to stdout before it was ready."""


@contextmanager
def serving(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Serving]:
    """Run `forwardpass serve` with these arguments while the block runs; kill it at the end.

    log is where its stderr goes; None: nowhere. After the timeout it is killed all the same.
    """
    with (
        Path(log or os.devnull).open("w") as stderr,
        subprocess.Popen(
            [*COMMAND, "serve", *map(str, arguments)],
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
    """Return this process' environment, less what is set for Forwardpass, and the extra."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FORWARDPASS")}
    return kept | {"COLUMNS": str(columns), "NO_COLOR": "1"} | dict(extra or {})
