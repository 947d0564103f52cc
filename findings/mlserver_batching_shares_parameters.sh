#!/usr/bin/env bash
# mlserver 1.7.1: with adaptive batching a caller's parameters are replaced by a neighbor's.
#
# Expected: requests whose parameters differ are not put into one batch, or each keeps its own. A
# threshold, a language or a user's id in `parameters` is part of the question.
# What happens: the parameters of all requests of a batch are merged into one set and the last one
# wins; the model sees one threshold for all rows. A tensor's datatype is the first's: an INT64
# input beside an FP32 one is read as FP32, and ids over 2**24 are rounded. (The batcher's
# max_batch_size counts requests, not rows.)
# Why it matters: alone, as in each test, the answer is right; under load, one caller is answered by
# another's settings, with nothing in either request to show it. Put what differs into an input
# tensor.
#
# Output seen:
#     first request        threshold 0.5, FP32
#     second request       threshold 0.9, INT64 [[16777217, 4]]
#     what the model gets  threshold 0.9, one x of FP32 [2, 2]
#     as NumPy             [[1.0, 2.0], [16777216.0, 4.0]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    mlserver==1.7.1 numpy==2.4.6 protobuf==6.33.6
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
from mlserver.batching.requests import BatchedRequests
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, Parameters, RequestInput


def request(datatype, data, threshold):
    x = RequestInput(name="x", shape=[1, 2], datatype=datatype, data=data)
    return InferenceRequest(inputs=[x], parameters=Parameters(threshold=threshold))


first = request("FP32", [1, 2], 0.5)
second = request("INT64", [16777217, 4], 0.9)
merged = BatchedRequests({"first": first, "second": second}).merged_request
threshold = merged.parameters.threshold
(x,) = merged.inputs
array = NumpyCodec.decode_input(x)
print("first request        threshold 0.5, FP32")
print("second request       threshold 0.9, INT64 [[16777217, 4]]")
print(f"what the model gets  threshold {threshold}, one x of {x.datatype} {list(x.shape)}")
print("as NumPy            ", array.tolist())
assert threshold == 0.9 and x.datatype == "FP32" and array.tolist() == [[1, 2], [16777216, 4]]
PROGRAM
