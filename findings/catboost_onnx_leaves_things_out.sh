#!/usr/bin/env bash
# catboost 1.2.10: a model saved as ONNX answers without the last step of `predict`.
#
# Expected: save_model(format="onnx") writes what predict and predict_proba compute, or raises, as
# it does for categorical features and for labels that are no integers or text.
# What happens: it writes the trees and, for classes, one of two fixed endings. CatBoostRegressor
# with Poisson or Tweedie loss predicts exp(trees); the file answers the logarithm.
# MultiClassOneVsAll is a sigmoid for each class; the file has a softmax over them. MultiLogloss
# (several labels for a row) becomes one choice between them: a row that has both labels gets
# probabilities with the sum 1. A threshold set by set_probability_threshold is not in the file.
# Why it matters: all these answers look right: positive numbers, probabilities that sum to 1.
# Compare the file with the model on rows of your own before it is served.
#
# Output seen (the first row: catboost, the file):
#     RMSE                 2.0               2.0
#     Poisson              1.11              0.11
#     Tweedie              1.08              0.08
#     MultiClass           [0.04 0.91 0.05]  [0.04 0.91 0.05]
#     MultiClassOneVsAll   [0.46 0.54 0.46]  [0.29 0.41 0.29]
#     MultiLogloss         [0.9  0.91]       [0.48 0.52]
#     threshold 0.9        rows that change their label: 73 of 200, in the file: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 onnxruntime==1.32.0 catboost==1.2.10
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import catboost
import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)
x = rng.normal(size=(200, 3)).astype(np.float32)
amount = np.exp(x[:, 0]) + 1
three = np.array(["a", "b", "c"])[(x[:, 0] > 0) * 1 + (x[:, 1] > 0) * (x[:, 0] > 0)]
both = (x[:, :2] > -0.5).astype(int)
options = {"iterations": 5, "thread_count": 1, "verbose": 0, "allow_writing_files": False}


def served(model):
    """Return what the file answers: numbers, or labels and a column for each class."""
    model.save_model("model.onnx", format="onnx")
    first, *others = onnxruntime.InferenceSession("model.onnx").run(None, {"features": x})
    if not others:
        return first.ravel()
    return first, np.array([list(row.values()) for row in others[0]])


def line(name, wanted, seen):
    print(f"{name:20} {np.round(wanted[0], 2)!s:17} {np.round(seen[0], 2)!s}")
    return np.abs(wanted - seen).max()


for loss in ("RMSE", "Poisson", "Tweedie:variance_power=1.5"):
    model = catboost.CatBoostRegressor(loss_function=loss, **options).fit(x, amount)
    wanted, seen = model.predict(x), served(model)
    difference = line(loss.partition(":")[0], wanted, seen)
    if loss == "RMSE":
        assert difference < 1e-5
    else:
        assert difference > 0.5 and np.allclose(wanted, np.exp(seen), rtol=1e-4)
for loss, y in (("MultiClass", three), ("MultiClassOneVsAll", three), ("MultiLogloss", both)):
    model = catboost.CatBoostClassifier(loss_function=loss, **options).fit(x, y)
    wanted, (_, seen) = model.predict_proba(x), served(model)
    difference = line(loss, wanted, seen)
    assert np.allclose(seen.sum(axis=1), 1)
    assert difference < 1e-5 if loss == "MultiClass" else difference > 0.1
model = catboost.CatBoostClassifier(**options).fit(x, np.where(x[:, 0] > 0, "yes", "no"))
before, (stored_before, _) = model.predict(x), served(model)
model.set_probability_threshold(0.9)
after, (stored_after, _) = model.predict(x), served(model)
changed, stored = (before != after).sum(), (stored_before != stored_after).sum()
print(f"threshold 0.9        rows that change their label: {changed} of 200, in the file: {stored}")
assert changed > 0 and stored == 0
PROGRAM
