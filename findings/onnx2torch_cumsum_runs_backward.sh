#!/usr/bin/env bash
# onnx2torch 1.5.15, torch 2.14.1: a CumSum without attributes sums from the end.
#
# Expected: `reverse` is 0 where a file does not give it, as the operator's text says and as every
# exporter writes an ordinary cumulative sum; a converted model computes what onnxruntime computes.
# What happens: onnx2torch takes 1 for an absent `reverse`, so the sums run backward. A file that
# spells the default out, `reverse=0`, is converted rightly.
# Why it matters: no error, the shape is right and so is the total, which stands at the other end;
# cumulative hazards of a survival head, or places of tokens, are those of the turned sequence.
#
# Output seen:
#     attributes               onnxruntime              onnx2torch
#     none                     [1, 3, 6, 10]            [10, 9, 7, 4]
#     reverse=0                [1, 3, 6, 10]            [1, 3, 6, 10]
#     reverse=1                [10, 9, 7, 4]            [10, 9, 7, 4]
#     exclusive=1              [0, 1, 3, 6]             [9, 7, 4, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 torch==2.14.1 \
    torchvision==0.29.1 onnx2torch==1.5.15
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnx2torch
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

x = np.array([1, 2, 3, 4], np.float32)


def both(**attributes):
    graph = helper.make_graph(
        [helper.make_node("CumSum", ["x", "axis"], ["y"], **attributes)],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.array(0), "axis")],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    ours = session.run(None, {"x": x})[0].astype(int).tolist()
    theirs = onnx2torch.convert(file)(torch.from_numpy(x)).numpy().astype(int).tolist()
    text = ", ".join(f"{name}={value}" for name, value in attributes.items())
    print(f"{text or 'none':24} {ours!s:24} {theirs}")
    return ours, theirs


print(f"{'attributes':24} {'onnxruntime':24} onnx2torch")
assert both() == ([1, 3, 6, 10], [10, 9, 7, 4])
assert both(reverse=0) == ([1, 3, 6, 10], [1, 3, 6, 10])
assert both(reverse=1) == ([10, 9, 7, 4], [10, 9, 7, 4])
assert both(exclusive=1) == ([0, 1, 3, 6], [9, 7, 4, 0])
PROGRAM
