"""What export and import cost, beside onnx alone doing the same on the same machine.

Usage: python -m benchmarks.beside_onnx [--write docs/importers.md]

Export: a network of 784-512-512-10 from its weights to a file on disk; ours is proven before,
onnx alone builds the same graph, checks and saves it. Import: a fresh Python that imports the
package. CPU time; the least of several tries, which take turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# One thread of BLAS, so that CPU time is work and not waiting; before NumPy is imported.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.documents import table, write_table
from forwardpass.models import Network, export

HEADINGS = ("CPU time, ms", "Forwardpass", "onnx alone", "ratio")
SIZES = (784, 512, 512, 10)
TIMES = 15


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the document to put the table into")
    options = parser.parse_args()
    network = Network.chain(SIZES, "relu", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exports = least(
            lambda: export(network, path, overwrite=True), lambda: save_with_onnx(network, path)
        )
    imports = least(lambda: start("forwardpass.models"), lambda: start("onnx"), of_children=True)
    label = "-".join(map(str, SIZES))
    rows = [
        [what, *(f"{seconds * 1e3:.0f}" for seconds in pair), f"{pair[0] / pair[1]:.2f}"]
        for what, pair in ((f"export of {label}", exports), ("import of the package", imports))
    ]
    print(table(HEADINGS, rows))
    if options.write is not None:
        write_table(options.write, "benchmarks.beside_onnx", table(HEADINGS, rows))


def least(
    ours: Callable[[], object], theirs: Callable[[], object], *, of_children: bool = False
) -> tuple[float, float]:
    """Return the least CPU seconds that each takes, in this process or in those it starts."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMES):
        for action, seconds in zip((ours, theirs), taken, strict=True):
            before = cpu_seconds(of_children)
            action()
            seconds.append(cpu_seconds(of_children) - before)
    return min(taken[0]), min(taken[1])


def cpu_seconds(of_children: bool) -> float:
    """Return the CPU time used so far, by ended children or by this process."""
    times = os.times()
    return times.children_user + times.children_system if of_children else time.process_time()


def save_with_onnx(network: Network, path: Path) -> None:
    """Write the network with onnx alone."""
    nodes, constants, tensor = [], [], "x"
    for number, layer in enumerate(network.layers, start=1):
        parameters = {f"W{number}": layer.W, f"b{number}": layer.b}
        constants += [numpy_helper.from_array(np.array(v), k) for k, v in parameters.items()]
        nodes.append(helper.make_node("Gemm", [tensor, *parameters], [f"z{number}"], transB=1))
        tensor = f"z{number}"
        if layer.activation == "relu":
            nodes.append(helper.make_node("Relu", [tensor], [f"a{number}"]))
            tensor = f"a{number}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZES[0]])],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", SIZES[-1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def start(package: str) -> None:
    """Run a Python that imports a package."""
    subprocess.run([sys.executable, "-c", f"import {package}"], check=True)


if __name__ == "__main__":
    main()
