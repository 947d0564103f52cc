"""Predict with our client alone; onnx and onnxruntime stay unimported.

Usage: our_predict.py TARGET MODEL INPUT.npz ANSWERS.npz
"""

import sys
from typing import Any

import numpy as np

from forwardpass.client import Client

target, model, inputs, answers = sys.argv[1:]
with Client(target) as client:
    prediction = client.predict(model, np.load(inputs)["x"])
assert not {"onnx", "onnxruntime"} & set(sys.modules)
arrays: dict[str, Any] = {f"ours/{name}": array for name, array in prediction.items()}
np.savez(answers, **arrays)
