"""Hours of load in minutes: memory stays where it was."""

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from benchmarks.load import Caller
from benchmarks.networks import NETWORKS, publish_all
from benchmarks.server_process import ServerProcess

CALLS = 500_000
ROUNDS = 20
# Rows a call -> its share of the calls.
MIX = {1: 0.70, 8: 0.15, 30: 0.10, 64: 0.04, 700: 0.01}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_over_half_a_million_calls_of_mixed_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_all(tmp_path / "models")
    rng = np.random.default_rng(0)
    command = ["-m", "forwardpass.cli", "serve", tmp_path / "models", "--port", "0"]
    with ServerProcess(*command, "--drain-s", "0") as server:
        callers = {}
        for rows in MIX:
            folder = tmp_path / str(rows)
            folder.mkdir()
            x = rng.standard_normal((rows, NETWORKS["small"].input.size))
            callers[rows] = Caller(server.target, "small", x, folder)
        memory = []
        for _ in range(ROUNDS):
            for rows, share in MIX.items():
                # Fails unless every call has its whole answer.
                callers[rows].run(int(CALLS * share / ROUNDS), connections=8, streams=4)
            memory.append(server.resident_bytes() / 2**20)
        threads = server.threads()
    with capsys.disabled():
        shown = " ".join(f"{mib:.0f}" for mib in memory)
        print(f"\n{CALLS:,} calls: resident MiB after each twentieth {shown}; {threads} threads")
    # A reading goes up and down by what the last large calls left, of which the heaps return some
    # or none: what grows does not come down again.
    assert median(memory[-5:]) <= 1.1 * memory[1]
    assert max(memory) <= 1.25 * memory[1]


MANY = 2_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_our_own_transports_memory_is_flat_over_two_million_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_all(tmp_path / "models")
    x = np.random.default_rng(0).standard_normal((1, NETWORKS["small"].input.size))
    command = ["-m", "forwardpass.cli", "serve", tmp_path / "models", "--port", "0"]
    with ServerProcess(*command, "--drain-s", "0", "--transport", "asyncio") as server:
        caller = Caller(server.target, "small", x, tmp_path)
        # Fails unless every call has its whole answer.
        caller.run(MANY // 10, connections=16, streams=16)
        early = server.resident_bytes() / 2**20
        load = caller.run(MANY - MANY // 10, connections=16, streams=16)
        late = server.resident_bytes() / 2**20
    with capsys.disabled():
        print(
            f"\n{MANY:,} calls over our own transport: resident {early:.1f} MiB after a tenth, "
            f"{late:.1f} at the end; {load.calls_per_s:,.0f} calls a second"
        )
    assert late <= 1.02 * early + 1
