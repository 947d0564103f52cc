#!/usr/bin/env bash
# onnxruntime 1.32.0: with an IOBinding that is used again, earlier answers become the last one.
#
# Expected: bind the output once, then per request bind the input, run, and take
# `binding.get_outputs()[0].numpy()`. Each answer is an array of its own, as `session.run` gives.
# `bind_output("y")` names no buffer, so each run allocates one.
# What happens: the first run allocates, the later ones write into that buffer, and `.numpy()`
# (whose docstring says only "Returns a Numpy object") is a view of it. After three runs all three
# answers that were kept are the third; as soon as a request has other rows, the run raises.
# `copy_outputs_to_cpu()`, or binding the output anew for each run, gives what was expected.
# Why it matters: a server that queues answers for a writer, or gathers a batch's pieces, sends one
# caller another caller's result. With one request at a time, as in a test, all is right.
#
# Output seen:
#     .numpy() of each run        [2.0, 11.0, 101.0] when read, then [101.0, 101.0, 101.0]
#     bound anew for each run     [2.0, 11.0, 101.0]
#     copy_outputs_to_cpu()       [2.0, 11.0, 101.0]
#     two rows after one          raises: output of 'y' provided {1,1}, computed {2,1}
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

onnxruntime.set_default_logger_severity(4)
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "one"], ["y"])],
    "add",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
    [numpy_helper.from_array(np.float32([1]), "one")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())


def answers(take, anew):
    binding = session.io_binding()
    binding.bind_output("y")
    kept, read = [], []
    for value in (1, 10, 100):
        if anew:
            binding.clear_binding_outputs()
            binding.bind_output("y")
        binding.bind_cpu_input("x", np.float32([[value]]))
        session.run_with_iobinding(binding)
        kept.append(take(binding))
        read.append(float(kept[-1][0, 0]))
    return read, [float(y[0, 0]) for y in kept]


view = lambda binding: binding.get_outputs()[0].numpy()
copy = lambda binding: binding.copy_outputs_to_cpu()[0]
read, kept = answers(view, anew=False)
print(".numpy() of each run       ", read, "when read, then", kept)
print("bound anew for each run    ", answers(view, anew=True)[1])
print("copy_outputs_to_cpu()      ", answers(copy, anew=False)[1])
binding = session.io_binding()
binding.bind_output("y")
raised = False
for rows in (1, 2):
    binding.bind_cpu_input("x", np.zeros((rows, 1), np.float32))
    try:
        session.run_with_iobinding(binding)
    except RuntimeError:
        raised = True
print("two rows after one         ", "raises" if raised else "runs")
assert read == [2, 11, 101] and kept == [101, 101, 101] and raised
assert answers(view, anew=True)[1] == answers(copy, anew=False)[1] == [2, 11, 101]
PROGRAM
