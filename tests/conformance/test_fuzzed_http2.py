"""The core of our HTTP/2 under a coverage-guided fuzzer, in an environment of its own."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.conftest import PROGRAMS
from conformance.environments import ROOT

BYTES = 10_000_000
MAX_MEMORY_MB = 1024
MAX_INPUT_S = 30
MAX_S = 1800


def test_ten_million_bytes_of_mutated_frames_break_nothing(
    environment: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = environment("atheris", "h2", "-e", f"{ROOT}[server]")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    options = ["-max_len=8192", "-seed=1", f"-artifact_prefix={corpus}/"]
    options += [f"-timeout={MAX_INPUT_S}", f"-rss_limit_mb={MAX_MEMORY_MB}"]
    # libFuzzer judges the peak that Linux keeps for a process (ru_maxrss). It outlives exec, and a
    # child of vfork begins with its parent's: that of all tests before this one. `timeout` forks.
    forked = ["timeout", str(MAX_S)]
    done = subprocess.run(
        [*forked, python, PROGRAMS / "fuzz_http2.py", corpus, str(BYTES), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    fed = re.fullmatch(r"fed (\d+) bytes .*", done.stdout.splitlines()[-1])
    assert fed is not None
    assert int(fed[1]) >= BYTES
    with capsys.disabled():
        covered = re.findall(r"cov: (\d+)", done.stderr)[-1]
        print(f"\n{fed[0]}; {covered} places of the code covered")
