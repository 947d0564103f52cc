#!/usr/bin/env bash
# duckdb 2.0.1 with numpy 2.4.6, onnxruntime 1.32.0 and tritonclient 2.73.0: one NULL is 0 here,
# 1e20 there.
#
# Expected: DuckDB's `fetchnumpy()` gives a masked array for a column with NULL. NumPy's masked
# arrays spread the mask, so a mean skips it, and whatever takes an array of plain numbers raises,
# or gets NaN, as from pandas.
# What happens: np.stack and np.column_stack keep the class MaskedArray and lose the mask, without a
# warning: what lay under it, 0, is a value now. onnxruntime does the same with a masked array
# itself. tritonclient calls .tobytes(), as onnx.numpy_helper.from_array does, for which NumPy fills
# in fill_value: 1e20. So one row of the same query is a valid feature of 0 in the process and one
# of 100000000000000000000 at the server.
# Why it matters: features come from SQL, and NULL in them is the ordinary case. The answers are
# numbers, the local test and the server disagree, and neither is right. Use .filled(np.nan) on each
# column.
#
# Output seen:
#     the column               [1.5 -- 3.5]
#     its mean                 2.5
#     np.column_stack          [[1.5], [0.0], [3.5]] a MaskedArray, mask False
#     onnxruntime gets         [1.5, 0.0, 3.5]
#     tritonclient sends       [1.5, 1e+20, 3.5]
#     .filled(np.nan)          [1.5, nan, 3.5]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==6.33.6 onnx==1.23.2 onnxruntime==1.32.0 duckdb==2.0.1 \
    tritonclient[grpc]==2.73.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import duckdb
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from tritonclient.grpc import InferInput

query = "select * from (values (1.5::float), (null), (3.5::float)) rows(x)"
column = duckdb.sql(query).fetchnumpy()["x"]
graph = helper.make_graph(
    [helper.make_node("Identity", ["x"], ["y"])],
    "same",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())
stacked = np.column_stack([column])
(seen,) = session.run(None, {"x": column})
tensor = InferInput("x", [3], "FP32")
tensor.set_data_from_numpy(column)
sent = np.frombuffer(tensor._get_content(), np.float32)
filled = column.filled(np.nan)
print("the column              ", column)
print("its mean                ", column.mean())
print("np.column_stack         ", stacked.tolist(), "a", type(stacked).__name__, "mask", stacked.mask)
print("onnxruntime gets        ", seen.tolist())
print("tritonclient sends      ", [float(f"{value:g}") for value in sent])
print(".filled(np.nan)         ", filled.tolist())
assert not np.any(stacked.mask) and stacked.ravel().tolist() == seen.tolist() == [1.5, 0, 3.5]
assert sent[1] == np.float32(1e20) and np.isnan(filled[1])
PROGRAM
