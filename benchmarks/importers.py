"""Each importer and kind of network: how exact, how fast to export, and what the file holds.

Usage: python -m benchmarks.importers [--write docs/importers.md]

Takes scikit-learn, skl2onnx, torch, onnxscript, stable-baselines3, Keras, h5py and safetensors.
With --write the table replaces the one between the marks in the document.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# One thread of BLAS, so that CPU time is work and not waiting; before NumPy is imported.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import onnx
import onnxruntime

from benchmarks.documents import table, write_table
from benchmarks.imported import Case, cases
from forwardpass.models import export, forward

HEADINGS = (
    "importer", "network", "layers", "largest error", "export, ms", "file, kB", "nodes",
    "FusedGemm",
)  # fmt: skip

TIMES = 5
"""Exports tried; the one of the least CPU time counts: the machine may be busy."""


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the document to put the table into")
    options = parser.parse_args()
    rows = []
    for case in cases():
        rows.append(measured(case))
        print(" | ".join(rows[-1]), flush=True)
    if options.write is not None:
        write_table(options.write, "benchmarks.importers", table(HEADINGS, rows))


def measured(case: Case) -> list[str]:
    """Return one row of the table."""
    answers = forward(case.network, case.x)
    error = max(
        np.abs(answers[name] - theirs).max() / np.abs(theirs).max()
        for name, theirs in case.expected.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        durations = []
        for _ in range(TIMES):
            start = time.process_time()
            export(case.network, path, overwrite=True)
            durations.append(time.process_time() - start)
        nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
        return [
            case.importer,
            case.kind,
            "-".join(map(str, shortened(case.network.sizes))),
            f"{error:.1e}",
            f"{min(durations) * 1e3:.0f}",
            f"{path.stat().st_size / 1e3:.0f}",
            ", ".join(f"{count} {kind}" for kind, count in nodes.items()),
            str(fused(path)),
        ]


def shortened(sizes: Sequence[int]) -> list[object]:
    """Return the sizes of layers, those in the middle left out where there are many."""
    return list(sizes) if len(sizes) <= 6 else [*sizes[:2], "...", *sizes[-2:]]


def fused(path: Path) -> int:
    """Return how many nodes are a Gemm with its activation once onnxruntime optimized them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    optimized = path.with_name("optimized.onnx")
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sum(node.op_type == "FusedGemm" for node in onnx.load(optimized).graph.node)


if __name__ == "__main__":
    main()
