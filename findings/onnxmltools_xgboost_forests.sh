#!/usr/bin/env bash
# onnxmltools 1.16.0 with xgboost 3.2.0: a forest of three classes gives its trees to the wrong
# classes, and some objectives lose their last step.
#
# Expected: convert_xgboost writes what predict and predict_proba compute, or raises, as it does
# for `missing=0`, for dart and for binary:logitraw.
# What happens: with num_parallel_tree over 1 (XGBRFClassifier has 100) and three or more classes,
# a round has num_parallel_tree trees for class 0, then as many for class 1; the converter deals
# the trees out in turns, so each class gets a mixture of all. A forest with two classes, and a
# regressor of parallel trees, convert rightly. reg:logistic answers without its sigmoid and with
# another constant, survival:cox without its exp; multi:softmax answers raw scores where
# predict_proba gives probabilities.
# Why it matters: the probabilities sum to 1 and every label appears, so a smoke test passes; a
# third of the labels are another class's. All of these convert without a warning.
#
# Output seen (labels that differ of 400, and the first row: xgboost, the file):
#     XGBRFClassifier, two classes      0  [0.91 0.09]       [0.91 0.09]
#     XGBRFClassifier, three classes  147  [0.83 0.09 0.09]  [0.35 0.34 0.31]
#     XGBClassifier, 3 parallel trees 264  [1. 0. 0.]        [0.34 0.33 0.33]
#     multi:softmax                     0  [1. 0. 0.]        [ 3.23 -2.78 -2.88]
#     reg:logistic                         0.28              0.22
#     survival:cox                         2.39              1.87
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 \
    skl2onnx==1.20.0 onnxmltools==1.16.0
"$folder/venv/bin/pip" install -q --no-compile --no-deps --disable-pip-version-check xgboost==3.2.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
import xgboost
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)
x = rng.normal(size=(400, 4)).astype(np.float32)
three = np.where(x[:, 0] > 0.5, 2, np.where(x[:, 1] > 0, 1, 0))
amount = np.exp(x[:, 0] / 2) * 2
options = {"n_estimators": 20, "n_jobs": 1}


def served(model):
    kind = FloatTensorType([None, 4])
    converted = convert_xgboost(model, initial_types=[("x", kind)], target_opset=15)
    return onnxruntime.InferenceSession(converted.SerializeToString()).run(None, {"x": x})


def classify(name, model, y):
    model.fit(x, y)
    wanted, (labels, seen) = model.predict_proba(x), served(model)
    moved = int((labels != model.predict(x)).sum())
    print(f"{name:31}{moved:4}  {np.round(wanted[0], 2)!s:17} {np.round(seen[0], 2)}")
    return moved, np.abs(wanted - seen).max()


def regress(objective, y):
    model = xgboost.XGBRegressor(objective=objective, **options).fit(x, y)
    wanted, (seen,) = model.predict(x), served(model)
    print(f"{objective:31}      {wanted[0]:<17.2f} {seen[0, 0]:.2f}")
    return wanted, seen.ravel()


forest = xgboost.XGBRFClassifier
moved, difference = classify("XGBRFClassifier, two classes", forest(**options), three > 0)
assert moved == 0 and difference < 1e-5
moved, difference = classify("XGBRFClassifier, three classes", forest(**options), three)
assert moved > 50 and difference > 0.3
parallel = xgboost.XGBClassifier(num_parallel_tree=3, **options)
moved, difference = classify("XGBClassifier, 3 parallel trees", parallel, three)
assert moved > 50 and difference > 0.3
softmax = xgboost.XGBClassifier(objective="multi:softmax", **options)
moved, difference = classify("multi:softmax", softmax, three)
assert moved == 0 and difference > 1
wanted, seen = regress("reg:logistic", amount / (amount.max() + 1))
constant = np.log(wanted / (1 - wanted)) - seen
assert np.ptp(constant) < 1e-3 and abs(constant[0]) > 1 and np.abs(wanted - seen).max() > 0.3
wanted, seen = regress("survival:cox", amount)
assert np.allclose(np.log(wanted), seen - seen[0] + np.log(wanted[0]), atol=1e-3)
assert np.abs(wanted - seen).max() > 1
PROGRAM
