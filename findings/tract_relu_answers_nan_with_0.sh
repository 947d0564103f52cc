#!/usr/bin/env bash
# tract 0.23.9: Relu and Max answer NaN with a number, and Celu leaves its alpha out.
#
# Expected: a missing value that came in as NaN comes out as NaN, or else there is an error: Relu is
# max(0, x), and IEEE's maximum and onnxruntime keep a NaN. Celu is
# max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).
# What happens: Relu makes 0 of NaN, and Max(x, 2) makes 2 of it, as Rust's `f32::max` does. A network
# with a hidden Relu then answers a row with a missing value by an ordinary number. Celu computes
# min(0, exp(x / alpha) - 1): with alpha=2 half of what is right, with the default of 1 nothing is seen.
# Why it matters: one file gives NaN on the server and a plausible number on the device.
#
# Output seen:
#     node                 x        onnxruntime       tract
#     Relu                 nan              nan           0
#     Max(x, 2)            nan              nan           2
#     Celu(alpha=2)         -1        -0.786939   -0.393469
#     Celu(alpha=1)         -1        -0.632121   -0.632121
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 tract==0.23.9
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper


def both(name, operator, x, inputs=("x",), **attributes):
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.float32(2), "two")] * ("two" in inputs),
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(file, "model.onnx")
    row = np.array([[x]], np.float32)
    right = onnxruntime.InferenceSession("model.onnx").run(None, {"x": row})[0].item()
    runnable = tract.onnx().load("model.onnx").into_model().into_runnable()
    theirs = runnable.run([row])[0].to_numpy().item()
    print(f"{name:16} {x:7g} {right:16.6g} {theirs:11.6g}")
    return right, theirs


print(f"{'node':16} {'x':>7} {'onnxruntime':>16} {'tract':>11}")
right, theirs = both("Relu", "Relu", np.nan)
assert np.isnan(right) and theirs == 0
right, theirs = both("Max(x, 2)", "Max", np.nan, ("x", "two"))
assert np.isnan(right) and theirs == 2
right, theirs = both("Celu(alpha=2)", "Celu", -1, alpha=2.0)
assert np.isclose(right, 2 * np.expm1(-0.5)) and np.isclose(theirs, np.expm1(-0.5))
right, theirs = both("Celu(alpha=1)", "Celu", -1, alpha=1.0)
assert np.isclose(right, np.expm1(-1)) and np.isclose(theirs, right)
PROGRAM
