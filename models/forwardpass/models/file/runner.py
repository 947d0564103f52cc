"""The only place that runs a graph: with onnxruntime, else with onnx's reference evaluator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.feeds import Rows
from forwardpass.proto.runtime import ERROR, import_onnxruntime, open_session, session_options


@dataclass(frozen=True)
class Runner:
    """A loaded graph."""

    runtime: str
    """Name and version of the library that runs it."""
    run: Callable[[NDArray[np.float32] | Rows], dict[str, NDArray[Any]]]
    """A function from the rows of the only input, or of each by name, to the outputs by name."""


def load_graph(model: bytes) -> Runner:
    """Load a serialized ONNX model."""
    try:
        onnxruntime = import_onnxruntime()
    except ImportError:
        return _reference(model)
    session = open_session(model, session_options(arena=True, log_severity=ERROR))
    source = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(rows: NDArray[np.float32] | Rows) -> dict[str, NDArray[Any]]:
        feeds = rows if isinstance(rows, Mapping) else {source: rows}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return Runner(f"onnxruntime {onnxruntime.__version__}", run)


def _reference(model: bytes) -> Runner:
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = ReferenceEvaluator(model, new_ops=_careful())
    source, names = graph.input_names[0], graph.output_names

    def run(rows: NDArray[np.float32] | Rows) -> dict[str, NDArray[Any]]:
        feeds = dict(rows) if isinstance(rows, Mapping) else {source: rows}
        # The evaluator uses NumPy, which warns where IEEE 754 defines a result.
        with np.errstate(all="ignore"):
            return dict(zip(names, graph.run(names, feeds), strict=True))

    return Runner(f"onnx {onnx.__version__} reference evaluator", run)


def _careful() -> list[Any]:
    """Return operators in place of the evaluator's own, which overflow where these do not."""
    from onnx.reference.op_run import OpRun

    class Softplus(OpRun):
        def _run(self, z: NDArray[np.float32]) -> tuple[NDArray[np.float32]]:
            return (np.logaddexp(np.float32(0), z),)

    class LogSoftmax(OpRun):
        def _run(self, z: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float32]]:
            below = z - z.max(axis=axis, keepdims=True)
            return (below - np.log(np.exp(below).sum(axis=axis, keepdims=True)),)

    return [Softplus, LogSoftmax]
