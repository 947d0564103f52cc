"""What the conformance tests share: environments, and programs beside the test."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conformance.environments import ROOT, python_with

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


@contextmanager
def running(command: list[str | Path], log: Path, **options: object) -> Iterator[subprocess.Popen]:
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


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Wait until a program is ready; fail with its log if it ends or a minute passes."""
    deadline = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"not ready:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)
