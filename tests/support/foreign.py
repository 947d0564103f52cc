"""ONNX models of any producer: written node by node, and computed in float64."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def node(
    operator: str, reads: str | Sequence[str], gives: str | Sequence[str], **attributes: Any
) -> NodeProto:
    """A node from names in one text: `node("Gemm", "x W b", "y")`; `-` is an input left out."""
    inputs = reads.split() if isinstance(reads, str) else list(reads)
    outputs = gives.split() if isinstance(gives, str) else list(gives)
    return helper.make_node(
        operator,
        ["" if each == "-" else each for each in inputs],
        outputs,
        name=attributes.pop("name", f"{operator} to {outputs[0]}"),
        **attributes,
    )


def written(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    *,
    width: int = 3,
    outputs: Sequence[str] = ("y",),
    inputs: Mapping[str, int] | None = None,
    batch: int | str = "n",
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
) -> ModelProto:
    """A model of one input x, or of those given with their widths."""
    graph = helper.make_graph(
        nodes,
        "theirs",
        [
            helper.make_tensor_value_info(name, kind, [batch, size])
            for name, size in (inputs or {"x": width}).items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=8, producer_name="hand", producer_version="1"
    )


def in_float64(model: ModelProto) -> ModelProto:
    """The same graph with float64 wherever it has another float."""
    exact = ModelProto()
    exact.CopyFrom(model)
    graph = exact.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for each in graph.node:
        for attribute in each.attribute:
            if attribute.name in ("value_float", "value_floats"):
                values = helper.get_attribute_value(attribute)
                tensor = numpy_helper.from_array(np.array(values, np.float64))
                attribute.CopyFrom(helper.make_attribute("value", tensor))
            elif attribute.name == "value" and each.op_type == "Constant":
                _widen(attribute.t)
            if attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
    return exact


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def referenced(
    model: ModelProto, rows: Mapping[str, NDArray[Any]] | NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """The answers of onnx's reference evaluator, computed in float64, by output."""
    evaluator = ReferenceEvaluator(in_float64(model))
    answers = evaluator.run(None, _wide(model, rows))
    return dict(zip(evaluator.output_names, answers, strict=True))


def run(
    model: ModelProto, rows: Mapping[str, NDArray[Any]] | NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """The answers of onnxruntime, computed in float64, by output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        in_float64(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, _wide(model, rows)), strict=True))


def _wide(
    model: ModelProto, rows: Mapping[str, NDArray[Any]] | NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    named = rows if isinstance(rows, Mapping) else {model.graph.input[0].name: rows}
    return {name: np.asarray(values, np.float64) for name, values in named.items()}
