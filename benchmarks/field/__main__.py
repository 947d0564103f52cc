"""Measure ours beside its field in one run.

Usage: python -m benchmarks.field [--quick] [--json FILE] [--page docs/benchmarks.md]
[--compare EARLIER.json] [--only NAME]... [--from FILE] [--server NAME=HOST:PORT,PID]...

A server that somebody else has started takes part by its address and its process:
`python -m benchmarks.networks FOLDER` writes the models that it has to serve. Pin it to core 0.
What it answers has to be right to 1e-4, since its runtime may be another.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.field.comparison import changes
from benchmarks.field.grid import FULL, QUICK, Grid
from benchmarks.field.machine import machine, versions
from benchmarks.field.measure import Record, measure, measure_alone
from benchmarks.field.page import claims_table, page
from benchmarks.field.peers import Peer, peers
from benchmarks.field.plots import save_plots
from benchmarks.field.results import Results
from benchmarks.networks import publish_all

_LOAD_CORE = 1
_IMAGES = Path("images") / "benchmarks"


def main() -> int:
    """Measure, print and write; return 1 if something is worse than in an earlier run."""
    options = _options()
    if options.from_ is not None:
        results = Results.read(options.from_)
    else:
        results = _run(QUICK if options.quick else FULL, options.only, options.server)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        results.write(options.json)
    print(claims_table(results))
    if options.page is not None:
        source = options.from_ or options.json
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page(results, source, _IMAGES.as_posix()))
        save_plots(results, options.page.parent / _IMAGES)
    if options.compare is not None:
        return _compare(Results.read(options.compare), results)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.field", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="three cases, in under two minutes")
    parser.add_argument("--json", type=Path, default=Path(".cache/benchmarks.json"))
    parser.add_argument("--page", type=Path, help="write the document, and its plots beside it")
    parser.add_argument("--compare", type=Path, help="tell what changed since an earlier file")
    parser.add_argument("--only", action="append", help="servers whose name contains this")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        type=Peer.of,
        metavar="NAME=HOST:PORT,PID",
        help="a server that runs already, measured in the same turns",
    )
    parser.add_argument("--from", dest="from_", type=Path, help="measure nothing, read this file")
    return parser.parse_args()


def _run(grid: Grid, only: list[str] | None, foreign: list[Peer]) -> Results:
    chosen = [*(peer for peer in peers() if _chosen(peer.name, grid, only)), *foreign]
    about = machine()
    # Before anything is timed: environments are made at their first use.
    found = versions([peer for peer in chosen if peer.foreign is None])
    os.sched_setaffinity(0, {_LOAD_CORE})
    with tempfile.TemporaryDirectory() as folder:
        files = publish_all(Path(folder) / "models")
        records = _rounds(grid, chosen, files)
    command = shlex.join(["python", "-m", "benchmarks.field", *sys.argv[1:]])
    return Results(
        {
            "command": command,
            "machine": about,
            "versions": found,
            "grid": {"name": grid.name, "rounds": grid.rounds, "repeats": grid.repeats},
            "foreign": [peer.name for peer in foreign],
            "records": records,
        }
    )


def _chosen(name: str, grid: Grid, only: list[str] | None) -> bool:
    if only is None:
        return name not in grid.leaves_out
    return any(part.lower() in name.lower() for part in only)


def _rounds(grid: Grid, chosen: list[Peer], files: dict[str, Path]) -> list[Record]:
    records: list[Record] = []
    ours: dict[str, float] = {}
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    for round_ in range(grid.rounds):
        say(f"round {round_ + 1} of {grid.rounds}: onnxruntime alone")
        records += measure_alone(files, grid, round_)
        # The other way round each second time, so that nobody is always after the same one.
        for peer in chosen if round_ % 2 == 0 else reversed(chosen):
            say(peer.name)
            records += measure(peer, files, grid, round_, say, ours)
    return records


def _compare(earlier: Results, now: Results) -> int:
    """Print what changed beyond the noise; return 1 if any of it is worse."""
    found = list(changes(earlier, now))
    for change in found:
        print(
            f"{'better' if change.better else 'WORSE'}: {change.server}, {change.what}, "
            f"{change.metric} over the naive server's: {change.earlier.median:.3g} "
            f"({change.earlier.low:.3g} to {change.earlier.high:.3g}) -> {change.now.median:.3g} "
            f"({change.now.low:.3g} to {change.now.high:.3g})"
        )
    print(f"{len(found)} changes beyond the noise")
    return int(any(not change.better for change in found))


if __name__ == "__main__":
    sys.exit(main())
