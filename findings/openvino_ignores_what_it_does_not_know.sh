#!/usr/bin/env bash
# openvino 2026.4.1, CPU: a batch for an LSTM with `layout=1` is read as a sequence, so rows run
# into each other; attributes and opsets that it does not know are ignored.
#
# Expected: the ONNX frontend raises for what it does not support, as it does for an unknown
# operator and as onnxruntime does for this LSTM and for an opset newer than itself.
# What happens: LSTM and GRU with layout=1 ([rows, steps, features]) are computed as layout=0
# ([steps, rows, features]): the second row goes on from the state of the first, and Y_h has one
# row. The windows of Attention (opset 25) are dropped, so each place attends to all. A model of
# opset 99 loads. No warning.
# Why it matters: with one row in a batch and one step the answers agree, which is what a smoke
# test has. With more, a caller's answer depends on the rows of others.
#
# Output seen (an LSTM with layout=1; the last values of Y for a row alone, and second in a batch):
#     onnx.reference   alone [0.37, 0.37]   second [0.37, 0.37]   Y_h (2, 1, 2)
#     openvino         alone [0.37, 0.37]   second [0.65, 0.65]   Y_h (1, 1, 2)
#     Attention with a window of 1: reference [1.0, 2.0, 3.0], openvino [2.0, 2.0, 2.0]
#     opset 99: openvino answers, onnxruntime raises
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
FLOAT = TensorProto.FLOAT


def model(node, inputs, outputs, weights, opset):
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )


def reference(network, *arrays):
    names = [value.name for value in network.graph.input]
    return ReferenceEvaluator(network).run(None, dict(zip(names, arrays, strict=True)))


def other(network, *arrays):
    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(network.SerializeToString()), "CPU", hint)
    answers = compiled(list(arrays))
    return [answers[place] for place in range(len(compiled.outputs))]


weights = {"w": np.full((1, 8, 1), 1, np.float32), "r": np.full((1, 8, 2), 0.5, np.float32)}
node = helper.make_node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=2, layout=1)
lstm = model(node, {"x": [None, 1, 1]}, ["y", "h"], weights, 22)
alone, batch = np.ones((1, 1, 1), np.float32), np.ones((2, 1, 1), np.float32)
seen = {}
for name, run in (("onnx.reference", reference), ("openvino", other)):
    (y, _), (both, h) = run(lstm, alone), run(lstm, batch)
    seen[name] = y[-1].ravel(), both[-1].ravel(), h.shape
    first, second = (value.round(2).astype(float).tolist() for value in seen[name][:2])
    first, second = ([round(number, 2) for number in row] for row in (first, second))
    print(f"{name:16} alone {first}   second {second}   Y_h {h.shape}")

node = helper.make_node(
    "Attention", ["q", "k", "v"], ["y"], left_window_size=0, right_window_size=0
)
shape = [1, 1, 3, 1]
attention = model(node, {name: shape for name in "qkv"}, ["y"], {}, 25)
zero, values = np.zeros(shape, np.float32), np.array([1, 2, 3], np.float32).reshape(shape)
windows = [run(attention, zero, zero, values)[0].ravel().tolist() for run in (reference, other)]
print(f"Attention with a window of 1: reference {windows[0]}, openvino {windows[1]}")

future = model(helper.make_node("Relu", ["x"], ["y"]), {"x": [2]}, ["y"], {}, 99)
assert other(future, np.array([-1, 1], np.float32))[0].tolist() == [0, 1]
try:
    onnxruntime.InferenceSession(future.SerializeToString())
except Exception as error:
    assert "opset" in str(error).lower()
    print("opset 99: openvino answers, onnxruntime raises")
else:
    raise AssertionError("onnxruntime loads opset 99")

first, second, shape = seen["onnx.reference"]
assert np.array_equal(first, second) and shape == (2, 1, 2)
first, second, shape = seen["openvino"]
assert np.abs(first - second).min() > 0.05 and shape == (1, 1, 2)
assert np.allclose(first, seen["onnx.reference"][0], atol=1e-4)
assert np.allclose(windows, [[1, 2, 3], [2, 2, 2]])
PROGRAM
