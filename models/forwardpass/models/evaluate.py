"""The one place that runs a graph: onnxruntime, or onnx's reference evaluator without it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Runner:
    """A loaded graph of one input."""

    runtime: str
    """Name and version of what runs it."""
    run: Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
    """Rows to the outputs by name."""


def load_graph(model: bytes) -> Runner:
    """Load a serialized ONNX model of one input."""
    # onnxruntime 1.29 and later report to their maker unless told not to before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        return _reference(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, {source: rows}), strict=True))

    return Runner(f"onnxruntime {onnxruntime.__version__}", run)


def _reference(model: bytes) -> Runner:
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = ReferenceEvaluator(model)
    source, names = graph.input_names[0], graph.output_names

    def run(rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        # The evaluator is NumPy, which warns where IEEE 754 has an answer.
        with np.errstate(all="ignore"):
            return dict(zip(names, graph.run(names, {source: rows}), strict=True))

    return Runner(f"onnx {onnx.__version__} reference evaluator", run)
