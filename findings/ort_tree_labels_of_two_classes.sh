#!/usr/bin/env bash
# onnxruntime 1.32.0 with catboost 1.2.10: trees of two integer classes answer 0 and 1, and a
# label can contradict its scores.
#
# Expected: TreeEnsembleClassifier answers with the class of the highest score, by the labels in
# the file, as with three classes, as with text labels, and as in onnx.reference.
# What happens: with two classes whose leaves weigh both (class_ids 0 and 1), scores are not
# compared: the label is the second class wherever its score is over 0. With `classlabels_int64s`
# it is moreover the number 1 or 0 in place of the label. A forest that keeps probabilities in its
# leaves therefore answers the second class for scores of 0.7 and 0.3. Converters that write one
# class only (skl2onnx) do not meet this; CatBoost writes both, so its classifier of the labels 3
# and 10 answers 0 and 1, beside probabilities under the right keys.
# Why it matters: the probabilities are right and a test that compares them passes. The labels -1
# and 1, 1 and 2, or two product numbers are ordinary. Take the label from the scores.
#
# Output seen:
#     leaves                    scores               onnxruntime   onnx.reference
#     -0.4/0.4, 0.6/-0.6, int   [-0.4, 0.4]          1             10
#     0.3/0.7, 0.7/0.3, int     [0.7, 0.3]           1             3
#     0.3/0.7, 0.7/0.3, text    [0.7, 0.3]           10            3
#     CatBoost, labels 3 and 10 {3: 0.7, 10: 0.3}    0             3 (by catboost)
#     CatBoost, 3, 10 and 20    right
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0 catboost==1.2.10
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import catboost
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)


def stump(weights, labels):
    """Build a tree that sends x <= 0 to the first leaf and x > 0 to the second."""
    kind = "classlabels_int64s" if isinstance(labels[0], int) else "classlabels_strings"
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0, 0, 0],
        class_nodeids=[1, 1, 2, 2],
        class_ids=[0, 1, 0, 1],
        class_weights=weights,
        post_transform="NONE",
        **{kind: labels},
    )
    of_labels = TensorProto.INT64 if isinstance(labels[0], int) else TensorProto.STRING
    graph = helper.make_graph(
        [node],
        "stump",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [
            helper.make_tensor_value_info("label", of_labels, ["n"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


print("leaves                    scores               onnxruntime   onnx.reference")
seen, right = [], []
for what, weights, labels, x in (
    ("-0.4/0.4, 0.6/-0.6, int", [-0.4, 0.4, 0.6, -0.6], [3, 10], -1),
    ("0.3/0.7, 0.7/0.3, int", [0.3, 0.7, 0.7, 0.3], [3, 10], 1),
    ("0.3/0.7, 0.7/0.3, text", [0.3, 0.7, 0.7, 0.3], ["3", "10"], 1),
):
    model = stump(weights, labels)
    feed = {"x": np.array([[x]], np.float32)}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (label,), (scores,) = session.run(None, feed)
    (wanted,), (same,) = ReferenceEvaluator(model).run(None, feed)
    assert np.array_equal(scores, same)
    seen.append(str(label))
    right.append(str(wanted))
    print(f"{what:26}{[round(float(score), 1) for score in scores]!s:21}{label:<14}{wanted}")
assert seen == ["1", "1", "10"] and right == ["10", "3", "3"]

x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
for names in ([3, 10], [3, 10, 20]):
    y = np.array(names)[np.arange(40) * len(names) // 40]
    model = catboost.CatBoostClassifier(
        iterations=2, depth=1, thread_count=1, verbose=0, allow_writing_files=False
    ).fit(x, y)
    model.save_model("model.onnx", format="onnx")
    session = onnxruntime.InferenceSession("model.onnx")
    labels, probabilities = session.run(None, {"features": x})
    chosen = [max(row, key=row.get) for row in probabilities]
    wanted = model.predict(x).ravel().tolist()
    assert chosen == wanted  # The probabilities are right, under the right labels.
    if len(names) == 2:
        row = {key: round(value, 1) for key, value in probabilities[0].items()}
        print(f"CatBoost, labels 3 and 10 {row!s:21}{labels[0]:<14}{wanted[0]} (by catboost)")
        assert labels.tolist() == [names.index(name) for name in wanted]
    else:
        print("CatBoost, 3, 10 and 20    right")
        assert labels.tolist() == wanted
PROGRAM
