#!/usr/bin/env bash
# onnxruntime 1.32.0: text as bytes objects becomes "b'cat'", and a missing one "None".
#
# Expected: bytes are taken as UTF-8, or rejected; None and NaN are rejected, or are empty text.
# What happens: onnxruntime calls str() on each element of an object array that is no str: b"cat"
# is the text "b'cat'", six characters; None is "None", NaN is "nan", 1.0 is "1.0" where the
# category is "1". str objects are read well.
# Why it matters: arrays of bytes objects are what as_numpy of tritonclient answers for BYTES, and
# what h5py and SQL drivers give; columns with gaps hold None or NaN. Each one becomes an unknown
# category, so the answer is that of the default class.
#
# Output seen:
#     given                   text in the graph                 LabelEncoder ox: 0, cat: 1, dog: 2
#     str objects             ['cat', 'dog', 'ox']              [1, 2, 0]
#     bytes objects           ["b'cat'", "b'dog'", "b'ox'"]     [-1, -1, -1]
#     the answer of a Triton  ["b'cat'", "b'dog'", "b'ox'"]     [-1, -1, -1]
#     None, NaN, 1.0          ['None', 'nan', '1.0']            [-1, -1, -1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==6.33.6 onnx==1.23.2 onnxruntime==1.32.0 tritonclient[grpc]==2.73.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import serialize_byte_tensor

onnxruntime.set_default_logger_severity(4)
encoder = helper.make_node(
    "LabelEncoder",
    ["x"],
    ["place"],
    domain="ai.onnx.ml",
    keys_strings=["ox", "cat", "dog"],
    values_int64s=[0, 1, 2],
    default_int64=-1,
)
graph = helper.make_graph(
    [helper.make_node("Identity", ["x"], ["text"]), encoder],
    "places",
    [helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])],
    [
        helper.make_tensor_value_info("text", TensorProto.STRING, ["n"]),
        helper.make_tensor_value_info("place", TensorProto.INT64, ["n"]),
    ],
)
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())

# The answer of a server with the output "text": what another model in the chain has said.
answer = service_pb2.ModelInferResponse(model_name="first", id="1")
answer.outputs.add(name="text", datatype="BYTES", shape=[3])
words = np.array(["cat", "dog", "ox"], object)
answer.raw_output_contents.append(serialize_byte_tensor(words).item())
received = InferResult(answer).as_numpy("text")

seen = {}
print("given                   text in the graph                 LabelEncoder ox: 0, cat: 1, dog: 2")
for name, array in (
    ("str objects", words),
    ("bytes objects", np.array([b"cat", b"dog", b"ox"], object)),
    ("the answer of a Triton", received),
    ("None, NaN, 1.0", np.array([None, np.nan, 1.0], object)),
):
    text, places = (value.tolist() for value in session.run(None, {"x": array}))
    print(f"{name:23} {text!s:33} {places}")
    seen[name] = text, places
assert seen["str objects"] == (["cat", "dog", "ox"], [1, 2, 0])
quoted = ["b'cat'", "b'dog'", "b'ox'"], [-1, -1, -1]
assert seen["bytes objects"] == seen["the answer of a Triton"] == quoted
assert seen["None, NaN, 1.0"] == (["None", "nan", "1.0"], [-1, -1, -1])
PROGRAM
