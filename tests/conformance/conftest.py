"""What the conformance tests share: environments, and programs beside the test."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conformance.environments import ROOT, lowest_versions, python_with

PROGRAMS = ROOT / "tests" / "conformance" / "programs"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.conformance)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def environment() -> Callable[..., Path]:
    """Make a virtual environment with the packages given; return its Python."""
    return python_with


@pytest.fixture(scope="session")
def lowest() -> Path:
    """Make an environment of the lowest versions that the project allows; return its Python.

    pip refuses it where a pin is below the bound in the project's own metadata.
    """
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the lowest versions have wheels for the lowest Python alone")
    extras = ("server", "cli", "stores")
    tests = (
        "pytest>=8",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "cryptography",
        "h2",
        "h11",
    )
    project = f"{ROOT}[{','.join(extras)}]"
    return python_with(*lowest_versions(*extras), *tests, "-e", project)


@contextmanager
def running(
    command: list[str | Path], log: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the test, its output in `log`; end it afterwards, come what may."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    log: Path,
    *,
    timeout_s: float = 60,
) -> None:
    """Wait until a program is ready; fail with its log if it ends or the time passes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"not ready:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)
