"""Predict with an unmodified tritonclient, with our client, if it is there, in the same process.

Usage: triton_predict.py TARGET MODEL INPUT.npz ANSWERS.npz
"""

import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

try:
    # Beside it, in one process: two definitions of inference.ModelInferRequest, and no conflict.
    from forwardpass.client import Client
except ModuleNotFoundError:
    Client = None  # type: ignore[assignment,misc]

target, model, inputs, answers = sys.argv[1:]
x = np.load(inputs)["x"]

client = triton.InferenceServerClient(target)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(model)
metadata = client.get_model_metadata(model)
sent = []
for tensor in metadata.inputs:
    sent.append(triton.InferInput(tensor.name, list(x.shape), tensor.datatype))
    sent[-1].set_data_from_numpy(x)
result = client.infer(model, sent)
theirs = {tensor.name: result.as_numpy(tensor.name) for tensor in metadata.outputs}
try:
    client.infer("no such model", sent)
    sys.exit("a model that is not there answered")
except triton.InferenceServerException as error:
    if "NOT_FOUND" not in error.status():
        raise

arrays: dict[str, Any] = {f"triton/{name}": array for name, array in theirs.items()}
if Client is not None:
    with Client(target) as ours:
        arrays |= {f"ours/{name}": array for name, array in ours.predict(model, x).items()}
np.savez(answers, **arrays)
