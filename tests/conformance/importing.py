"""Tests of importers, run in an environment that has what they import from."""

import os
import subprocess
from pathlib import Path

from conformance.environments import ROOT

IGNORED = (
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:`isinstance(treespec:FutureWarning",
)
"""Keras' own, with NumPy 2, and torch.export's."""
LIBRARIES = ROOT / "tests" / "models" / "importers" / "libraries"
CATEGORIES, JAX, POLICIES, SBX = (
    LIBRARIES / f"test_{name}.py" for name in ("keras_categories", "jax", "policies", "sbx")
)


def check(python: Path, *arguments: str | Path, backend: str = "torch") -> None:
    """Run tests in an environment, which has to have what they need."""
    warnings = [part for each in IGNORED for part in ("-W", each)]
    done = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", *warnings, *arguments],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]
