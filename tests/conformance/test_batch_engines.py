"""`forwardpass.batch` in the engines themselves, each in an environment of its own."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.environments import ROOT

ENGINES = ("duckdb", "dask", "ray", "spark")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_gives_the_bits_of_load(environment: Callable[..., Path], engine: str) -> None:
    if engine == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java: Debian's default-jre-headless")
    # One for all, or installing would take longer than the tests.
    python = environment("-e", f"{ROOT}[dev,{','.join(ENGINES)}]")
    for tests, named in (
        (f"batch/engines/test_{engine}.py", ""),
        ("docs/test_examples.py", "batch"),
    ):
        # Warnings are the engine's own, as of Spark about pandas 3.
        options = ("-p", "no:cacheprovider", "-W", "default", "--timeout=600", "-k", named)
        done = subprocess.run(
            [python, "-m", "pytest", *options, ROOT / "tests" / tests],
            env=os.environ
            | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "PYSPARK_PYTHON": str(python)},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "skipped" not in done.stdout.splitlines()[-1]
