#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1: an MLPRegressor with three targets answers n rows with 3n
# rows.
#
# Expected: shape (n, 3), as predict has it, and as the files of LinearRegression, Ridge, trees and
# nearest neighbors have it for several targets.
# What happens: the file ends in a reshape to (-1, 1): (500, 3) comes out as (1500, 1), the right
# numbers in a column. With one target it is right, so the examples are.
# Why it matters: a server that cuts a batch's answers by rows gives the first caller the second and
# third value of his first row as his "rows" two and three; one that checks rows refuses every call.
# `answer[:n]` in a client runs and is wrong.
#
# Output seen:
#     scikit-learn             (500, 3)
#     MLPRegressor's file      (1500, 1)
#     declared in the file     [None, 1]
#     LinearRegression's file  (500, 3)
#     values, reshaped         agree
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 \
    scipy==1.17.1 skl2onnx==1.20.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import warnings

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(500, 4)).astype(np.float32)
Y = np.column_stack([X[:, 0], X[:, 1] ** 2, -X[:, 2]])


def run(model):
    session = onnxruntime.InferenceSession(to_onnx(model.fit(X, Y), X[:1]).SerializeToString())
    return session.get_outputs()[0].shape, session.run(None, {"X": X})[0]


network, linear = MLPRegressor(max_iter=20, random_state=0), LinearRegression()
declared, answer = run(network)
expected = network.predict(X)
agree = np.allclose(answer.reshape(-1, 3), expected, atol=1e-4)
print("scikit-learn            ", expected.shape)
print("MLPRegressor's file     ", answer.shape)
print("declared in the file    ", declared)
print("LinearRegression's file ", run(linear)[1].shape)
print("values, reshaped        ", "agree" if agree else "differ")
assert expected.shape == (500, 3) and answer.shape == (1500, 1) and agree
assert run(linear)[1].shape == (500, 3)
PROGRAM
