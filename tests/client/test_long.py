"""Days of use in minutes: memory stays where it was."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.networks import publish_all
from benchmarks.server_process import ServerProcess
from support.proc import resident_mib

from forwardpass.client import Client

TESTS = Path(__file__).parents[1]

CALLS = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from support.proc import resident_mib
from forwardpass.client import AsyncClient, Client

x = [[0.5] * 30]

def calls():
    with Client({target!r}) as client:
        for _ in range(10):
            for _ in range(10_000):
                client.predict("small", x)
            print(resident_mib())

async def async_calls():
    async with AsyncClient({target!r}) as client:
        for _ in range(10):
            for _ in range(1_000):
                await asyncio.gather(*(client.predict("small", x) for _ in range(10)))
            print(resident_mib())

def clients():
    for _ in range(10):
        for _ in range(1_000):
            with Client({target!r}) as client:
                client.predict("small", x)
        print(resident_mib())

async def async_clients():
    for _ in range(10):
        for _ in range(1_000):
            async with AsyncClient({target!r}) as client:
                await client.predict("small", x)
        print(resident_mib())

{run}
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long") / "models"
    publish_all(folder)
    command = ["-m", "forwardpass.cli", "serve", folder, "--port", "0", "--drain-s", "0"]
    with ServerProcess(*command) as server:
        yield server.target


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "run"),
    [
        ("100,000 calls of a Client", "calls()"),
        ("100,000 calls of an AsyncClient", "asyncio.run(async_calls())"),
        ("10,000 Clients", "clients()"),
        ("10,000 AsyncClients", "asyncio.run(async_clients())"),
    ],
)
def test_memory_is_flat(target, capsys: pytest.CaptureFixture[str], what, run) -> None:
    program = CALLS.format(tests=str(TESTS), target=target, run=run)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = [float(line) for line in done.stdout.split()]
    with capsys.disabled():
        print(f"\n{what}: resident MiB after each tenth {' '.join(f'{m:.1f}' for m in memory)}")
    assert len(memory) == 10
    # What allocators and thread pools take at first does not count.
    assert max(memory[3:]) <= memory[2] + 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_rows_take_the_memory_of_their_answers(
    target, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).standard_normal((1_000_000, 30), np.float32)
    with Client(target, timeout_s=None) as client:
        expected = client.predict("small", x[-3:])["y"]
        before = resident_mib()
        Path("/proc/self/clear_refs").write_text("5")
        y = client.predict("small", x)["y"]
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    np.testing.assert_array_equal(y[-3:], expected)
    assert y.shape == (1_000_000, 2)
    with capsys.disabled():
        print(
            f"\n1,000,000 rows: {x.nbytes / 2**20:.0f} MiB asked, {y.nbytes / 2**20:.0f} answered, "
            f"{peak - before:.0f} more at the peak"
        )
    assert peak - before < y.nbytes / 2**20 + 64
