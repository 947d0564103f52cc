#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU of x86-64: a float16 network does not overflow, even where it reports inf.
#
# Expected: in a float16 network t = x*x is float16, so 300*300 = 90000 is over 65504 and becomes
# inf, and y = sqrt(t) is inf: what the ONNX specification and onnx's own evaluator say. With all
# graph optimizations off at least.
# What happens: the CPU has no float16 kernels for these operators, so casts to float32 are put
# around each, and then the casts between neighbors are dropped; t stays 90000.0 in float32 and y is
# 300. This is no optimization: ORT_DISABLE_ALL does it too. If t is an output of the graph as well,
# one answer says t = inf and sqrt(t) = 300.
# Why it matters: a float16 file that passes every test on CPUs can be full of inf and NaN on a
# device that computes in float16 (norms, variances and exponentials overflow first), and a look at
# the values in between shows infinities that the result does not have.
#
# Output seen:
#     sqrt(x*x), optimizations on        y = 300.0
#     sqrt(x*x), ORT_DISABLE_ALL         y = 300.0
#     the same, x*x an output too        y = 300.0  x*x = inf
#     onnx.reference                     y = inf  x*x = inf
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def network(outputs):
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["t"]), helper.make_node("Sqrt", ["t"], ["y"])],
        "norm",
        [helper.make_tensor_value_info("x", half, ["rows"])],
        [helper.make_tensor_value_info(name, half, ["rows"]) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [float(value[0]) for value in session.run(None, {"x": x})]


x = np.array([300], np.float16)
levels = onnxruntime.GraphOptimizationLevel
(on,) = run(network(["y"]), levels.ORT_ENABLE_ALL)
(off,) = run(network(["y"]), levels.ORT_DISABLE_ALL)
y, t = run(network(["y", "t"]), levels.ORT_DISABLE_ALL)
with np.errstate(over="ignore"):
    reference = [float(v[0]) for v in ReferenceEvaluator(network(["y", "t"])).run(None, {"x": x})]
print("sqrt(x*x), optimizations on        y =", on)
print("sqrt(x*x), ORT_DISABLE_ALL         y =", off)
print("the same, x*x an output too        y =", y, " x*x =", t)
print("onnx.reference                     y =", reference[0], " x*x =", reference[1])
assert on == off == y == 300 and t == np.inf and reference == [np.inf, np.inf]
PROGRAM
