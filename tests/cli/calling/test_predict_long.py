"""A million rows through `forwardpass predict`: memory stays where it is."""

import csv
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support.command import COMMAND, environment, serving

ROWS = 1_000_000
MORE_MIB = 64
"""What the peak may differ by from that of a tenth of the rows; all as float64 are 229."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all rows as big.csv, and a tenth of them as small.csv."""
    from forwardpass.models.zoo import ZOO

    folder = tmp_path_factory.mktemp("rows")
    features = ZOO["breast_cancer"].network().input.features
    x = ZOO["breast_cancer"].held_out().x
    picked = x[np.random.default_rng(0).integers(0, len(x), ROWS // 10)].tolist()
    for name, repeats in (("small.csv", 1), ("big.csv", 10)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", *features])
            for repeat in range(repeats):
                start = repeat * len(picked)
                writer.writerows([start + i, *row] for i, row in enumerate(picked))
    return folder


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_ten_times_the_rows_take_no_more_memory(
    repository: Path, patients: Path, ending: str
) -> None:
    with serving(repository, "--port", "0", timeout_s=1800) as server:
        command = [*COMMAND, "predict", "breast_cancer", "--target", server.target, "--keep", "id"]
        peaks = []
        for name in ("small", "big"):
            output = f"{name}-answers.{ending}"
            with subprocess.Popen(
                [*command, "--input", f"{name}.csv", "--output", output],
                cwd=patients,
                env=environment(),
            ) as process:
                peaks.append(peak_mib(process))
            assert process.returncode == 0
    size = (patients / "big.csv").stat().st_size / 2**20
    print(f"{ending}: {ROWS:,} rows, {size:,.0f} MiB: {peaks[1]:.0f} MiB; a tenth: {peaks[0]:.0f}")
    assert peaks[1] < peaks[0] + MORE_MIB
    if ending != "parquet":
        with (patients / f"big-answers.{ending}").open() as file:
            assert sum(1 for _ in file) == ROWS + (ending == "csv")


def peak_mib(process: "subprocess.Popen[bytes]") -> float:
    """Wait for a process; return the most memory that it ever had in RAM."""
    peak = 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.05)
    return peak / 1024
