#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1: PowerTransformer turns NaN into an ordinary number.
#
# Expected: scikit-learn's scalers and transformers pass NaN through ("NaNs are treated as missing
# values: disregarded in fit, and maintained in transform"), and so do the files of StandardScaler,
# MinMaxScaler, RobustScaler and QuantileTransformer.
# What happens: the file of PowerTransformer (Yeo-Johnson, its default) answers with what 0 maps to:
# it masks each branch by multiplying, and a NaN is in neither branch. So a missing feature leaves
# the step as a plausible value, near 0 and near the middle of the scaled data.
# Why it matters: the row that should have been refused, or routed by the imputer behind this step,
# gets a confident answer, and NaN alarms behind it stay silent.
#
# Output seen:
#     NaN in                   272
#     NaN out, scikit-learn    272
#     NaN out, ONNX            0
#     NaN becomes              [ 0.082  0.006  0.027 -0.059]
#     0 becomes                [ 0.082  0.006  0.027 -0.059]
#     NaN out, StandardScaler  272
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 \
    scipy==1.17.1 skl2onnx==1.20.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.preprocessing import PowerTransformer, StandardScaler

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 4)).astype(np.float32)
X[rng.random(X.shape) < 0.2] = np.nan


def convert(step):
    step.fit(X)
    return onnxruntime.InferenceSession(to_onnx(step, X[:1]).SerializeToString())


step = PowerTransformer()
session = convert(step)
out = session.run(None, {"X": X})[0]
filled = session.run(None, {"X": np.full((1, 4), np.nan, np.float32)})[0][0]
zero = session.run(None, {"X": np.zeros((1, 4), np.float32)})[0][0]
scaled = convert(StandardScaler()).run(None, {"X": X})[0]
print("NaN in                  ", np.isnan(X).sum())
print("NaN out, scikit-learn   ", np.isnan(step.transform(X)).sum())
print("NaN out, ONNX           ", np.isnan(out).sum())
print("NaN becomes             ", filled.round(3))
print("0 becomes               ", zero.round(3))
print("NaN out, StandardScaler ", np.isnan(scaled).sum())
assert np.isnan(step.transform(X)).sum() == np.isnan(scaled).sum() == np.isnan(X).sum() > 0
assert not np.isnan(out).any()
PROGRAM
