#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1: a random forest that learned with NaN sends NaN down the
# other way.
#
# Expected: trees and forests of scikit-learn take NaN since 1.3 and 1.4 and learn on which side
# missing values go; ONNX's TreeEnsemble has nodes_missing_value_tracks_true for exactly that, and
# the converter takes the model without a word. So rows with NaN are answered as in scikit-learn.
# What happens: the learned side is not written into the file; a NaN fails every comparison and goes
# to the right. Rows without NaN agree to 1e-6. LightGBM's and XGBoost's converters do write the
# side.
# Why it matters: missing values are why one picks such a model. A test on complete rows passes and
# the incomplete ones are answered by another forest: here nearly all, off by up to 3 standard
# deviations.
#
# Output seen:
#     nodes_missing_value_tracks_true set       False
#     complete rows, largest difference         0.0
#     rows with NaN over 0.001 off              98 %
#     largest difference there                  8.1 (standard deviation of y: 2.2)
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
from sklearn.ensemble import RandomForestRegressor

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 4)).astype(np.float32)
y = X[:, 0] * 2 + X[:, 1] ** 2
X[rng.random(X.shape) < 0.2] = np.nan
model = RandomForestRegressor(20, random_state=0).fit(X, y)
file = to_onnx(model, X[:1])
session = onnxruntime.InferenceSession(file.SerializeToString())
off = np.abs(session.run(None, {"X": X})[0].ravel() - model.predict(X))
missing = np.isnan(X).any(axis=1)
(tree,) = [node for node in file.graph.node if node.op_type.startswith("TreeEnsemble")]
written = any(
    any(attribute.ints)
    for attribute in tree.attribute
    if attribute.name == "nodes_missing_value_tracks_true"
)
share = (off[missing] > 1e-3).mean()
print("nodes_missing_value_tracks_true set      ", written)
print("complete rows, largest difference        ", off[~missing].max().round(5))
print("rows with NaN over 0.001 off             ", round(100 * share), "%")
print(f"largest difference there                  {off.max():.1f} (standard deviation of y: {y.std():.1f})")
assert not written and off[~missing].max() < 1e-4 and share > 0.5
PROGRAM
