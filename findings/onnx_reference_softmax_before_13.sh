#!/usr/bin/env bash
# onnx 1.23.2 (onnx.reference), jaxonnxruntime 0.3.0: Softmax of opsets before 13 over one axis.
#
# Expected: ReferenceEvaluator computes what the operator's text says for the opset of the file.
# Softmax, LogSoftmax and Hardmax of opsets 1 to 12 flatten what is before and after `axis`
# (1 by default) and sum over all of the second part; from 13 on they sum over one axis (the last).
# What happens: both packages sum over one axis in every opset, onnx.reference over the last where no
# axis is given, jaxonnxruntime over axis 1. On a batch of vectors all agree; with an axis of 0, or
# three axes, the numbers are others, without an error or a warning.
# Why it matters: the reference is what one compares a runtime with. Files of older exporters look
# wrong in onnxruntime, which is the one that is right.
#
# Output seen:
#     Softmax of [2, 3, 4] in opset 11: each of the 2 rows sums to
#         onnxruntime            1.000000
#         onnx.reference         3.000000
#         jaxonnxruntime         4.000000
#     Softmax, axis=0, of [3, 4] in opset 11: all elements sum to
#         onnxruntime            1.000000
#         onnx.reference         4.000000
#         jaxonnxruntime         4.000000
#     Hardmax of [2, 3, 4] in opset 11: ones in each of the 2 rows
#         onnxruntime            1.000000
#         onnx.reference         3.000000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 jax==0.10.2 jaxlib==0.10.2 \
    jaxonnxruntime==0.3.0 absl-py==2.5.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
from jaxonnxruntime import backend
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def answers(operator, x, **attributes):
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    yield "onnxruntime", session.run(None, {"x": x})[0]
    yield "onnx.reference", ReferenceEvaluator(file).run(None, {"x": x})[0]
    if operator == "Softmax":
        yield "jaxonnxruntime", np.asarray(backend.run_model(file, {"x": x})[0])


def sums(title, operator, x, axes, expected, **attributes):
    print(title)
    for (name, answer), sum_ in zip(answers(operator, x, **attributes), expected, strict=True):
        found = answer.sum(axis=axes)
        print(f"    {name:22} {np.mean(found):.6f}")
        np.testing.assert_allclose(found, sum_, rtol=1e-6)


x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
text = "of [2, 3, 4] in opset 11:"
sums(f"Softmax {text} each of the 2 rows sums to", "Softmax", x, (1, 2), (1, 3, 4))
title = "Softmax, axis=0, of [3, 4] in opset 11: all elements sum to"
sums(title, "Softmax", x[0], (0, 1), (1, 4, 4), axis=0)
sums(f"Hardmax {text} ones in each of the 2 rows", "Hardmax", x, (1, 2), (1, 3))
PROGRAM
