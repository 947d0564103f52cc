#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1: the scores of an SVC of two classes stand in turned columns.
#
# Expected: of the two columns that the file answers for a classifier without probabilities, the
# second is the score of `classes_[1]`, which is `decision_function`, as in the files of LinearSVC
# and of LogisticRegression; `label` is the class of the larger one.
# What happens: the labels are right, but for SVC the first column is `decision_function` and the
# second is it with the other sign, so the label is the class of the smaller score, with
# both kernels tried.
# Why it matters: labels and accuracy agree, and a test that compares magnitudes, too; a ranking, an
# AUC or a threshold of one's own on the second column is upside down.
#
# Output seen:
#     SVC, linear kernel   second column -1 x decision_function, labels equal, AUC 0.003
#     SVC, rbf kernel      second column -1 x decision_function, labels equal, AUC 0.002
#     LinearSVC            second column +1 x decision_function, labels equal, AUC 0.999
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
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC, LinearSVC

warnings.simplefilter("ignore")
X, y = load_breast_cancer(return_X_y=True)
X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)


def signs(name, model, **options):
    model.fit(X, y)
    file = to_onnx(model, X[:1], options={id(model): options})
    session = onnxruntime.InferenceSession(file.SerializeToString())
    labels, scores = session.run(None, {"X": X})
    expected = model.decision_function(X)
    sign = next(s for s in (1, -1) if np.allclose(scores[:, 1], s * expected, atol=1e-3))
    equal = (labels == model.predict(X)).all()
    auc = roc_auc_score(y, scores[:, 1])
    print(
        f"{name:20} second column {sign:+d} x decision_function, "
        f"labels {'equal' if equal else 'differ'}, AUC {auc:.3f}"
    )
    assert equal
    return sign


assert signs("SVC, linear kernel", SVC(kernel="linear"), zipmap=False) == -1
assert signs("SVC, rbf kernel", SVC(), zipmap=False) == -1
assert signs("LinearSVC", LinearSVC(), raw_scores=True) == 1
PROGRAM
