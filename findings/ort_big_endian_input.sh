#!/usr/bin/env bash
# onnxruntime 1.32.0, numpy 2.4.6: an array of the other byte order is read as if it were of ours.
#
# Expected: `session.run` either converts an array of dtype '>f4' to the machine's float32, as NumPy
# does in every operation, or raises as it does for float64 ("Unexpected input data type").
# What happens: it takes the dtype for tensor(float) and the bytes as they are. [1, 2] arrives as
# [4.6e-41, 9e-44]: no error, no warning, an answer for nothing. `OrtValue.ortvalue_from_numpy` does
# the same. onnx.numpy_helper.from_array raises for the same array.
# Why it matters: IDX (MNIST), FITS, NetCDF-3 and many HDF5 files hold big-endian numbers, and what
# reads them gives arrays of '>f4'. They print, compare and multiply right everywhere on the way.
# Call `.astype(np.float32)` at the border; `np.asarray(x, np.float32)` does it too.
#
# Output seen (on a little-endian machine):
#     the array                       [[1. 2.]] >f4
#     equal to the native one         True
#     x + 10 in NumPy                 [[11. 12.]]
#     x + 10 in onnxruntime           [[10. 10.]]
#     the same as native float32      [[11. 12.]]
#     an OrtValue of it               [[4.6006e-41 8.9683e-44]]
#     onnx.numpy_helper.from_array    raises ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

assert sys.byteorder == "little"
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "ten"], ["y"])],
    "add",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
    [numpy_helper.from_array(np.float32([10, 10]), "ten")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())

native = np.array([[1, 2]], np.float32)
swapped = native.astype(">f4")
(answer,) = session.run(None, {"x": swapped})
(right,) = session.run(None, {"x": swapped.astype(np.float32)})
value = onnxruntime.OrtValue.ortvalue_from_numpy(swapped).numpy()
try:
    numpy_helper.from_array(swapped)
    stored = "stores it"
except ValueError:
    stored = "raises ValueError"
print("the array                      ", swapped, swapped.dtype)
print("equal to the native one        ", np.array_equal(native, swapped))
print("x + 10 in NumPy                ", swapped + 10)
print("x + 10 in onnxruntime          ", answer)
print("the same as native float32     ", right)
print("an OrtValue of it              ", value)
print("onnx.numpy_helper.from_array   ", stored)
assert np.array_equal(answer, [[10, 10]]) and np.array_equal(right, [[11, 12]])
assert np.array_equal(value, native.view(np.uint32).byteswap().view(np.float32))
PROGRAM
