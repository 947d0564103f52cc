"""The calls of tritonclient's published examples, in their order, over a Triton repository."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.conftest import PROGRAMS
from support import triton_models
from support.command import serving

from forwardpass.server.config import Transport


@pytest.mark.parametrize("transport", Transport)
def test_every_answer_is_what_the_examples_insist_on(
    environment: Callable[..., Path], tmp_path: Path, transport: Transport
) -> None:
    python = environment("tritonclient[grpc]==2.73.0", "numpy")
    repository = triton_models.write_repository(tmp_path / "repository")
    settings = ["--transport", transport, "--server-name", "triton"]
    allowed = ["--model-control", "--shared-memory"]
    with serving(repository, "--port", "0", *settings, *allowed, timeout_s=300) as server:
        done = subprocess.run(
            [python, PROGRAMS / "triton_examples.py", server.target],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )

    assert done.returncode == 0, done.stdout + done.stderr
