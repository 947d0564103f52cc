#!/usr/bin/env bash
# onnxmltools 1.16.0, xgboost 3.2.0 (CPU build): an XGBRegressor with two targets answers their sum,
# and 0.
#
# Expected: a regressor with two targets converts as one with one target does, which agrees to 1e-5;
# the converter knows that there are two: it writes n_targets = 2, and the answer has two columns.
# What happens: every tree is written for target 0. The first column is the sum over the trees of
# both targets, the second is 0 for every row. The converter, the checker and the load raise
# nothing. objective="reg:logistic" is another one that converts into something else: the file
# answers the margin, not the probability.
# Why it matters: shape and dtype are right and the first column moves with the input, so a smoke
# test is content. scikit-learn's forests with several targets, and XGBoost with one, convert right.
#
# Output seen:
#     one target      largest difference 0.0
#     two targets     (500, 2), target_ids written [0]
#                     column 0 = sum of both, without base scores: True
#                     column 1: values [0.0]
#     reg:logistic    model in 0.00..1.00, file in -5.4..5.9
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 \
    scipy==1.17.1 skl2onnx==1.20.0 onnxmltools==1.16.0 xgboost-cpu==3.2.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import warnings

import numpy as np
import onnxruntime
import xgboost
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

warnings.simplefilter("ignore")
onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)
X = rng.normal(size=(500, 4)).astype(np.float32)
y = X[:, 0] * 2 + X[:, 1] ** 2


def convert(y, **options):
    model = xgboost.XGBRegressor(n_estimators=20, n_jobs=1, **options).fit(X, y)
    file = convert_xgboost(model, initial_types=[("x", FloatTensorType([None, 4]))])
    session = onnxruntime.InferenceSession(file.SerializeToString())
    return model.predict(X), session.run(None, {"x": X})[0], file


model, answer, _ = convert(y)
one = np.abs(model - answer.ravel()).max()
print("one target      largest difference", one.round(3))
model, answer, file = convert(np.column_stack([y, 10 * X[:, 2]]), base_score=0.0)
trees = [node for node in file.graph.node if node.op_type == "TreeEnsembleRegressor"]
(written,) = [set(a.ints) for a in trees[0].attribute if a.name == "target_ids"]
summed = np.allclose(answer[:, 0], model.sum(axis=1), atol=1e-3)
print("two targets    ", answer.shape, "target_ids written", sorted(written))
print("                column 0 = sum of both, without base scores:", summed)
print("                column 1: values", np.unique(answer[:, 1]).tolist())
logistic, margin, _ = convert((y > 0).astype(int), objective="reg:logistic")
print(f"reg:logistic    model in {logistic.min():.2f}..{logistic.max():.2f}, "
      f"file in {margin.min():.1f}..{margin.max():.1f}")
assert one < 1e-3 and written == {0} and summed and not answer[:, 1].any()
assert model[:, 1].std() > 5 and logistic.max() <= 1 < margin.max()
PROGRAM
