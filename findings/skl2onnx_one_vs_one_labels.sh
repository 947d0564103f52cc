#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1: OneVsOneClassifier answers with the place of a class, not its
# label.
#
# Expected: the `label` output holds the labels that the model was trained with, as every other
# classifier's file does, OneVsRestClassifier's among them.
# What happens: it holds 0, 1, 2 for classes [3, 1, 2] sorted to [1, 2, 3], with int64 labels. For
# classes 0..k-1, as in all examples, place and label are the same, and in a shape of (n, 1)
# besides.
# Why it matters: with labels 1, 2, 3 (or article numbers) the answers are valid labels of other
# classes: nothing fails. For text labels the file does not load, so the mistake shows only there.
#
# Output seen:
#     classes_                          [1 2 3]
#     OneVsRest   agree with predict    500 of 500
#     OneVsOne    agree with predict      0 of 500
#     OneVsOne    label = place         True
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
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier

onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)
X = rng.normal(size=(500, 4)).astype(np.float32)
y = np.digitize(X[:, 0] + 0.3 * X[:, 1], [-0.5, 0.5]) + 1
agree = {}
for kind in (OneVsRestClassifier, OneVsOneClassifier):
    model = kind(LogisticRegression()).fit(X, y)
    file = to_onnx(model, X[:1], options={id(model): {"zipmap": False}})
    session = onnxruntime.InferenceSession(file.SerializeToString())
    labels = session.run(["label"], {"X": X})[0].ravel()
    agree[kind.__name__] = (labels == model.predict(X)).sum()
places = np.array_equal(model.classes_[labels], model.predict(X))
print("classes_                         ", model.classes_)
print("OneVsRest   agree with predict   ", agree["OneVsRestClassifier"], "of 500")
print("OneVsOne    agree with predict     ", agree["OneVsOneClassifier"], "of 500")
print("OneVsOne    label = place        ", places)
assert agree == {"OneVsRestClassifier": 500, "OneVsOneClassifier": 0} and places
PROGRAM
