#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: ReduceMax and ArgMax pass over a NaN that does not come first.
#
# Expected: the largest of values with a NaN among them is NaN, wherever it stands, as in NumPy,
# PyTorch and onnx.reference; so a NaN among the scores of a row stays visible at the end of the
# network. The same runtime keeps NaN in Relu, Clip, Max of two tensors, Softmax and TopK.
# What happens: the kernels compare with `>`, so a NaN that is not in front loses to every number.
# The one in front is kept by ArgMax and, depending on the length of the row, by ReduceMax: the same
# values in another order have another maximum. ReduceMin and MaxPool are of the kind.
# Why it matters: a check such as isfinite(ReduceMax(scores)) in the graph passes for broken rows,
# and ArgMax answers with a class, that of the largest finite score, for a network whose output is
# NaN. The alarm has to look at the scores themselves.
#
# Output seen:
#     row               ReduceMax   ArgMax   TopK(1)   onnx.reference
#     [nan, 1, 3, 2]    nan         0        nan       nan, 0, nan
#     [1, nan, 3, 2]    3.0         2        nan       nan, 1, nan
#     [1, 3, 2, nan]    3.0         1        nan       nan, 3, nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
F, I = TensorProto.FLOAT, TensorProto.INT64
graph = helper.make_graph(
    [
        helper.make_node("ReduceMax", ["x", "axes"], ["largest"], keepdims=0),
        helper.make_node("ArgMax", ["x"], ["place"], axis=1, keepdims=0),
        helper.make_node("TopK", ["x", "k"], ["top", "top_place"]),
    ],
    "largest",
    [helper.make_tensor_value_info("x", F, [1, 4])],
    [
        helper.make_tensor_value_info("largest", F, None),
        helper.make_tensor_value_info("place", I, None),
        helper.make_tensor_value_info("top", F, None),
    ],
    [numpy_helper.from_array(np.array([1]), "axes"), numpy_helper.from_array(np.array([1]), "k")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())
reference = ReferenceEvaluator(model)
nan = np.nan
seen, right = [], []
print("row               ReduceMax   ArgMax   TopK(1)   onnx.reference")
for row in ([nan, 1, 3, 2], [1, nan, 3, 2], [1, 3, 2, nan]):
    x = np.array([row], np.float32)
    seen.append([value.ravel()[0].item() for value in session.run(None, {"x": x})])
    right.append([value.ravel()[0].item() for value in reference.run(None, {"x": x})])
    largest, place, top = seen[-1]
    print(f"{row!s:18}{largest:<12}{place:<9}{top:<10}", *right[-1])
# The first row is printed only: whether a NaN in front is kept depends on the row's length.
assert np.array_equal(seen[1:], [[3, 2, nan], [3, 1, nan]], equal_nan=True)
assert np.array_equal(right, [[nan, 0, nan], [nan, 1, nan], [nan, 3, nan]], equal_nan=True)
PROGRAM
