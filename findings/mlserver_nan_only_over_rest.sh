#!/usr/bin/env bash
# mlserver 1.7.1: an answer with one NaN fails over gRPC and is null over REST; infinity becomes
# NaN.
#
# Expected: gRPC carries IEEE floats, so it has no trouble with NaN; if one of the two has, it is
# JSON.
# What happens: NumpyCodec.encode_output replaces NaN by None, for JSON's sake, before it is known
# how the answer goes out. The gRPC converter then meets None in a float field and raises TypeError,
# which the caller sees as an internal error for the whole batch. REST sends null, for infinities
# too, and reading it back gives NaN for all three.
# Why it matters: one row with a NaN takes down the answers of every caller in its batch, over the
# one protocol that can carry it; and an overflow (inf) reads as a missing value. Besides, a vector
# of n comes out with shape [n, 1], so what was encoded is not what is decoded.
#
# Output seen:
#     encoded              [None, 1.0, inf, -inf]
#     read back            [nan, 1.0, nan, nan]
#     over gRPC            TypeError: must be real number, not NoneType
#     a vector of 3        has shape [3, 1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    mlserver==1.7.1 numpy==2.4.6 protobuf==6.33.6
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc.converters import ModelInferResponseConverter
from mlserver.types import InferenceResponse

values = np.array([[np.nan, 1, np.inf, -np.inf]], np.float32)
output = NumpyCodec.encode_output("y", values)
response = InferenceResponse(model_name="m", id="1", outputs=[output])
parsed = InferenceResponse.model_validate_json(response.model_dump_json())
back = NumpyCodec.decode_output(parsed.outputs[0])
try:
    ModelInferResponseConverter.from_types(response)
    over_grpc = "sent"
except TypeError as error:
    over_grpc = f"TypeError: {error}"
vector = NumpyCodec.encode_output("y", np.float32([1, 2, 3])).shape
print("encoded             ", list(output.data))
print("read back           ", back.ravel().tolist())
print("over gRPC           ", over_grpc)
print("a vector of 3        has shape", list(vector))
assert list(output.data) == [None, 1, np.inf, -np.inf] and over_grpc.startswith("TypeError")
assert np.isnan(back).sum() == 3 and list(vector) == [3, 1]
PROGRAM
