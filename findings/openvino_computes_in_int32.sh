#!/usr/bin/env bash
# openvino 2026.4.1, CPU: a model of int64 or double declares them and computes in int32 and
# float32.
#
# Expected: inputs and outputs of int64 hold int64; a type that the device does not compute in is
# an error, or shows in the type of the output.
# What happens: the CPU plugin computes int64 as int32 and double as float32, and converts back:
# the output says int64 and holds the low 32 bits. An Identity answers 0 for 2**40; an id of 64
# bits does not equal itself written into the graph. Int32 is no safer: its sums are computed in
# float32, and a saturating conversion makes 2**31 - 1 of what wraps elsewhere. Add of uint8 does
# not wrap but stops at 255.
# Why it matters: hashed features, ids and time stamps in milliseconds do not fit into 32 bits,
# and a lookup with them finds another row, or none, where onnxruntime finds the right one.
#
# Output seen:
#     graph                          onnxruntime      openvino
#     Identity(2**40)                1099511627776    0  int64
#     1796060516109 == itself        True             False  bool
#     Mod(1796060516109, 1000)       109              384  int64
#     ReduceSum int32 [2**24, 1]     16777217         16777216  int32
#     double 2**30 + 0.5             1073741824.5     1073741824.0  float64
#     uint8 200 + 100                44               255  uint8
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

onnxruntime.set_default_logger_severity(4)
now = 1796060516109  # Milliseconds since 1970.


def both(name, operator, dtype, values, weight=None, answer=None):
    x = np.array(values, dtype)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    weights = [] if weight is None else [numpy_helper.from_array(np.array([weight], dtype), "w")]
    options = {"keepdims": 0} if operator == "ReduceSum" else {}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *(tensor.name for tensor in weights)], ["y"], **options)],
        "one",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", answer or kind, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data = model.SerializeToString()
    (right,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    core = openvino.Core()
    seen = core.compile_model(core.read_model(data), "CPU")([x])[0]
    right, value = right.item(), seen.item()
    print(f"{name:30} {right!s:16} {value}  {seen.dtype}")
    return right, value, str(seen.dtype)


print("graph                          onnxruntime      openvino")
identity = both("Identity(2**40)", "Identity", np.int64, [2**40])
equal = both("1796060516109 == itself", "Equal", np.int64, [now], now, TensorProto.BOOL)
rest = both("Mod(1796060516109, 1000)", "Mod", np.int64, [now], 1000)
total = both("ReduceSum int32 [2**24, 1]", "ReduceSum", np.int32, [2**24, 1])
double = both("double 2**30 + 0.5", "Add", np.float64, [2**30], 0.5)
byte = both("uint8 200 + 100", "Add", np.uint8, [200], 100)
assert identity == (2**40, 0, "int64")
assert equal == (True, False, "bool")
assert rest[0] == 109 and rest[1] != 109 and rest[2] == "int64"
assert total == (2**24 + 1, 2**24, "int32")
assert double == (2**30 + 0.5, 2**30, "float64")
assert byte == (44, 255, "uint8")
PROGRAM
