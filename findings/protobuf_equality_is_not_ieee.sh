#!/usr/bin/env bash
# protobuf 7.36.2: messages with NaN or -0.0 are equal or not by implementation, not by value.
#
# Expected: == of messages compares their fields, a float field as Python compares floats: NaN is
# unequal to itself, -0.0 equals 0.0. Or it compares bytes. In any case the same in all of protobuf.
# What happens: upb, which pip installs, compares bits: NaN equals a NaN of the same bits, but not
# the one that inf - inf gives on x86 (its sign bit is set), and -0.0 differs from 0.0 also in
# repeated fields. The pure Python implementation, which is used where no wheel fits, compares lists
# of Python's floats: -0.0 equals 0.0, and all NaNs that were read from bytes are equal, as its
# reader makes the same float object of each; two that a program assigned are not.
# Why it matters: a cache or a test that compares tensors as messages (InferTensorContents, onnx's
# TensorProto with float_data) takes equal networks for different ones by a zero's sign, takes one
# NaN for another or not by its sign, and says something else on a platform without a wheel. Compare
# arrays.
#
# Output seen (of messages that were read from bytes):
#     [nan] == [nan]             upb True     python True
#     [nan] == [inf - inf]       upb False    python True
#     [-0.0] == [0.0]            upb False    python True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    protobuf==7.36.2
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import os
import subprocess
import sys

CHECK = '''
import struct
from google.protobuf.internal import api_implementation
from google.protobuf.struct_pb2 import ListValue, Value

def message(number):
    sent = ListValue(values=[Value(number_value=number)]).SerializeToString()
    return ListValue.FromString(sent)  # each has float objects of its own

nan = struct.unpack("<d", bytes.fromhex("000000000000f87f"))[0]
negative_nan = struct.unpack("<d", bytes.fromhex("000000000000f8ff"))[0]
print(api_implementation.Type(), message(nan) == message(nan),
      message(nan) == message(negative_nan), message(-0.0) == message(0.0))
'''


def run(implementation):
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


upb, python = run("upb"), run("python")
for index, case in enumerate(("[nan] == [nan]", "[nan] == [inf - inf]", "[-0.0] == [0.0]"), 1):
    print(f"{case:26} upb {upb[index]:8} python {python[index]}")
assert upb == ["upb", "True", "False", "False"]
assert python == ["python", "True", "True", "True"]
PROGRAM
