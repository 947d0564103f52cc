"""The importers against PyTorch, Keras and skl2onnx, which are too large for every run."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.environments import ROOT

# Keras' own, with NumPy 2.
IGNORED = "ignore:__array__ implementation:DeprecationWarning"


@pytest.mark.parametrize("tests", ["models/importers", "docs/test_examples.py"])
def test_torch_and_keras_models_become_networks_with_their_answers(
    environment: Callable[..., Path], tests: str
) -> None:
    python = environment(
        "torch==2.13.*", "keras>=3", "onnxscript>=0.5", "skl2onnx>=1.19", "-e", f"{ROOT}[dev]"
    )
    pytest_here = [python, "-m", "pytest", "-p", "no:cacheprovider", "-W", IGNORED]
    done = subprocess.run(
        [*pytest_here, "-k", "importers", ROOT / "tests" / tests],
        env=os.environ | {"KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]
