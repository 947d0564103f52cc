#!/usr/bin/env bash
# onnxruntime 1.32.0: after `quantize_dynamic`, a row's answer depends on the rows beside it.
#
# Expected: a dense layer answers each row by itself. Quantizing costs some rounding, the same in
# any batch: the file was made without data, and each run takes each row's range as it comes
# ("dynamic").
# What happens: the file holds DynamicQuantizeLinear, which takes one scale from the whole tensor,
# all rows of the batch. One row with large values makes the steps so coarse that its neighbors'
# small values are rounded to multiples of it: here an answer of 0.41 becomes 0.82.
# Why it matters: with a batching server the answer depends on who else calls in that millisecond.
# It cannot be reproduced from the request in the log, a cache by request is wrong, and an
# evaluation on a fixed order of rows measures something else than what callers get.
#
# Output seen:
#     float32             [ 0.41  0.39 -0.16]
#     int8, alone         [ 0.41  0.39 -0.15]
#     int8, with a large  [ 0.82  0.6  -0.44]
#     operators           ['DynamicQuantizeLinear', 'Mul', 'MatMulInteger', 'Cast', 'Mul']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 sympy==1.14.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
W = np.array(
    [[0.13, -0.13, 0.64], [0.1, -0.54, 0.36], [1.3, 0.95, -0.7], [-1.27, -0.62, 0.04]], np.float32
)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "W"], ["y"])],
    "dense",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
    [numpy_helper.from_array(W, "W")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.save(model, "dense.onnx")
quantize_dynamic("dense.onnx", "int8.onnx")
session = onnxruntime.InferenceSession("int8.onnx")
small = np.array([[0.3, -0.2, 0.4, 0.1]], np.float32)
large = np.array([[90, -70, 20, 10]], np.float32)
exact = (small @ W)[0]
alone = session.run(None, {"x": small})[0][0]
beside = session.run(None, {"x": np.vstack([small, large])})[0][0]
print("float32            ", exact.round(2))
print("int8, alone        ", alone.round(2))
print("int8, with a large ", beside.round(2))
print("operators          ", [node.op_type for node in onnx.load("int8.onnx").graph.node])
assert np.abs(alone - exact).max() < 0.02 < 0.2 < np.abs(beside - exact).max()
PROGRAM
