#!/usr/bin/env bash
# onnxmltools 1.16.0, lightgbm 4.7.0: what LightGBM keeps beside the trees' splits is lost on
# conversion.
#
# Expected: a LightGBM model is its trees, and the converter raises for what it cannot do (it does,
# for objective="mape"). Early stopping, categories, DART, Poisson and quantile objectives all
# convert right.
# What happens: these four convert without a word into other functions: reg_sqrt=True (trained on
# the root of y; the file answers the root), linear_tree=True (a linear model in each leaf; the file
# has a constant), boosting_type="rf" (the file divides the sum of the trees by 100, the default
# number, not by theirs), zero_as_missing=True (0 goes the way of missing values; in the file it is
# compared as 0).
# Why it matters: each is one argument, chosen by a tuner as often as by a person, and the file
# answers with plausible numbers: the root of a price, a leaf's mean.
#
# Output seen (share of rows off by over 0.1, largest difference; y is about 100):
#     plain              0 %    0.0
#     reg_sqrt         100 %   94.3
#     linear_tree       63 %    3.8
#     rf               100 %   83.0
#     zero_as_missing   19 %    0.6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 \
    scipy==1.17.1 skl2onnx==1.20.0 onnxmltools==1.16.0 lightgbm==4.7.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import warnings

import lightgbm
import numpy as np
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(500, 4)).astype(np.float32)
X[rng.random(X.shape) < 0.3] = 0
y = X[:, 0] * 2 + X[:, 1] ** 2 + 100
options = {
    "plain": {},
    "reg_sqrt": {"reg_sqrt": True},
    "linear_tree": {"linear_tree": True},
    "rf": {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    "zero_as_missing": {"zero_as_missing": True},
}
wrong = {}
for name, option in options.items():
    model = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1, n_jobs=1, random_state=0, **option)
    model.fit(X, y)
    file = convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, 4]))])
    session = onnxruntime.InferenceSession(file.SerializeToString())
    off = np.abs(session.run(None, {"x": X})[0].ravel() - model.predict(X))
    wrong[name] = (off > 0.1).mean()
    print(f"{name:16}{100 * wrong[name]:4.0f} %  {off.max():5.1f}")
assert wrong.pop("plain") == 0 and all(share > 0.02 for share in wrong.values()), wrong
PROGRAM
