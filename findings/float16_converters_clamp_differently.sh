#!/usr/bin/env bash
# onnxconverter-common 1.16.0 and onnxruntime 1.32.0: the "same" convert_float_to_float16 halves a
# weight of 20000 in one and keeps it in the other.
#
# Expected: both packages carry the same tool under the same name with the same arguments. A weight
# that float16 holds (up to 65504) stays what it is, rounded; only what does not fit is clamped.
# What happens: onnxconverter-common has max_finite_val=10000 by default, so 20000, which float16
# represents exactly, becomes 10000; onnxruntime.transformers.float16 has 65504. Where two weights
# of a tensor are cut, one warning names one of them.
# Why it matters: folded scalers, embeddings of prices or of counts and biases of regressions are
# beyond 10000 in ordinary networks, and the answer is then off by a factor, not by a rounding. Pass
# max_finite_val=65504 yourself.
#
# Output seen:
#     float32                     [20000.0, 60000.0, 0.5]
#     onnxconverter-common        [10000.0, 10000.0, 0.5], 1 warning(s)
#     onnxruntime.transformers    [20000.0, 60000.0, 0.5], 0 warning(s)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 onnxconverter-common==1.16.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import warnings

import numpy as np
import onnxconverter_common.float16 as common
import onnxruntime.transformers.float16 as ort
from onnx import TensorProto, helper, numpy_helper

W = np.float32([[20000, 60000, 0.5]])


def convert(tool):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "W"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(W, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        half = tool.convert_float_to_float16(model, keep_io_types=True)
    return numpy_helper.to_array(half.graph.initializer[0])[0].tolist(), len(warned)


print("float32                    ", W[0].tolist())
first, warned = convert(common)
print(f"onnxconverter-common        {first}, {warned} warning(s)")
second, none = convert(ort)
print(f"onnxruntime.transformers    {second}, {none} warning(s)")
assert first == [10000, 10000, 0.5] and second == [20000, 60000, 0.5] and none == 0
PROGRAM
