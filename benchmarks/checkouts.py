"""CPU of a call in other states of this repository, beside the one that is checked out here.

Usage: python -m benchmarks.checkouts FOLDER [FOLDER ...] [--turns 9] [--transport asyncio]

A folder is another checkout (`git worktree add FOLDER REVISION`); its code runs on what is
installed here. The servers share core 0 and answer in turns, h2load has core 1. Printed are the
medians of the CPU time per call in user and kernel mode, and each one's ratio to the first
folder's: the median of the ratios within a turn.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.load import Caller
from benchmarks.networks import NETWORKS, publish_all
from benchmarks.server_process import ServerProcess

HERE = Path(__file__).parents[1]
PORTIONS = ("proto", "models", "server", "client", "cli")
# CPU times come in hundredths of a second: each sample takes more than one second.
CASES = (
    # network, rows, connections, streams of each, calls
    ("small", 1, 1, 1, 24_000),
    ("small", 1, 8, 4, 160_000),
    ("small", 1, 8, 32, 320_000),
    ("small", 1, 250, 1, 120_000),
    ("small", 64, 8, 4, 80_000),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--transport", default="asyncio")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    checkouts = [*(folder.resolve() for folder in options.folders), HERE]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        models = publish_all(root / "models")["small"].parents[2]
        serve = ("-m", "forwardpass.cli", "serve", models, "--port", "0", "--drain-s", "0")
        targets = []
        for checkout in checkouts:
            path = os.pathsep.join(str(checkout / portion) for portion in PORTIONS)
            server = ServerProcess(
                *serve, "--transport", options.transport, env=os.environ | {"PYTHONPATH": path}
            )
            targets.append(stack.enter_context(server))
        for network, rows, connections, streams, calls in CASES:
            x = np.random.default_rng(0).standard_normal((rows, NETWORKS[network].input.size))
            cpu_us: list[list[float]] = [[] for _ in targets]
            for turn in range(options.turns + 1):
                for place, server in enumerate(targets):
                    caller = Caller(server.target, network, x, root)
                    before = server.cpu_s()
                    caller.run(calls, connections=connections, streams=streams)
                    # The first turn warms up.
                    if turn:
                        cpu_us[place].append((server.cpu_s() - before) / calls * 1e6)
            print(f"{network}, {rows} rows, {connections}x{streams}, CPU per call:", flush=True)
            for checkout, found in zip(checkouts, cpu_us, strict=True):
                ratios = [each / first for each, first in zip(found, cpu_us[0], strict=True)]
                shown = f"{median(found):8.1f} us, {median(ratios):.3f} times the first's"
                print(f"  {checkout.name:12} {shown}", flush=True)


if __name__ == "__main__":
    main()
