#!/usr/bin/env bash
# onnx 1.23.2: `version_converter` from opset 10 to 11 or later changes what a linear Resize
# computes.
#
# Expected: "convert_version" gives a model that computes the same in the newer opset; where it
# cannot, it raises, as it does for operators without an adapter.
# What happens: Resize of opset 10 (and Upsample of 7 and 9, which become Resize) samples at x_out /
# scale, which opset 11 calls coordinate_transformation_mode "asymmetric". The converter writes no
# attribute, and opset 11's default is "half_pixel": every pixel moves by a part of one. The shape
# is right, the checker accepts it, nothing is logged. Nearest mode at twice the size comes out the
# same, so a look at one network may find nothing.
# Why it matters: old image networks are lifted to a newer opset so that today's tools take them. A
# segmentation or detection head that resizes loses accuracy without any sign; compare outputs
# before and after, always.
#
# Output seen (one row, 0 10 20 30, twice as wide):
#     opset 10                       [ 0.  5. 10. 15. 20. 25. 30. 30.]
#     converted to 21                [ 0.   2.5  7.5 12.5 17.5 22.5 27.5 30. ]
#     with asymmetric put in         [ 0.  5. 10. 15. 20. 25. 30. 30.]
#     attributes after               ['mode']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

onnxruntime.set_default_logger_severity(4)
graph = helper.make_graph(
    [helper.make_node("Resize", ["x", "scales"], ["y"], mode="linear")],
    "resize",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 8])],
    [numpy_helper.from_array(np.float32([1, 1, 1, 2]), "scales")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=8)
x = np.float32([0, 10, 20, 30]).reshape(1, 1, 1, 4)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0].ravel()


converted = version_converter.convert_version(model, 21)
onnx.checker.check_model(converted, full_check=True)
(resize,) = [node for node in converted.graph.node if node.op_type == "Resize"]
attributes = [attribute.name for attribute in resize.attribute]
before, after = run(model), run(converted)
mode = helper.make_attribute("coordinate_transformation_mode", "asymmetric")
resize.attribute.append(mode)
mended = run(converted)
print("opset 10                      ", before)
print("converted to 21               ", after)
print("with asymmetric put in        ", mended)
print("attributes after              ", attributes)
assert np.array_equal(before, [0, 5, 10, 15, 20, 25, 30, 30]) and np.array_equal(before, mended)
assert np.array_equal(after, [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30])
PROGRAM
