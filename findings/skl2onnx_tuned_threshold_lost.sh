#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1: TunedThresholdClassifierCV is converted without its
# threshold.
#
# Expected: the converter takes the class (it raises for what it does not know, and does for its
# sibling FixedThresholdClassifier), so the label in the file is by the tuned threshold, which is
# all that this class adds to the classifier inside.
# What happens: the file is that of the classifier inside: labels by 0.5. The probabilities are
# right.
# Why it matters: the threshold was tuned for a cost or for recall on a rare class; the served
# labels are those from before the tuning, with no word. Serve the probabilities and apply
# best_threshold_, or check labels before a rollout.
#
# Output seen:
#     best_threshold_                       0.69
#     labels that differ                    76 of 500
#     file's labels = probability > 0.5     True
#     FixedThresholdClassifier              raises MissingShapeCalculator
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
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 4)).astype(np.float32)
y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)
new = rng.normal(size=(500, 4)).astype(np.float32)
model = TunedThresholdClassifierCV(LogisticRegression()).fit(X, y)
file = to_onnx(model, X[:1], options={id(model): {"zipmap": False}})
session = onnxruntime.InferenceSession(file.SerializeToString())
labels, probabilities = session.run(None, {"X": new})
differ = (labels != model.predict(new)).sum()
by_half = np.array_equal(labels, (probabilities[:, 1] > 0.5).astype(int))
try:
    to_onnx(FixedThresholdClassifier(LogisticRegression(), threshold=0.2).fit(X, y), X[:1])
    sibling = "converts"
except Exception as error:
    sibling = f"raises {type(error).__name__}"
print("best_threshold_                      ", round(float(model.best_threshold_), 2))
print("labels that differ                   ", differ, "of 500")
print("file's labels = probability > 0.5    ", by_half)
print("FixedThresholdClassifier             ", sibling)
assert differ > 20 and by_half
assert np.allclose(probabilities, model.predict_proba(new), atol=1e-5)
PROGRAM
