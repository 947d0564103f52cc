#!/usr/bin/env bash
# numpy 2.4.6 with tritonclient 2.73.0: a list of 64-bit hashes becomes float64, and neighbors
# become one.
#
# Expected: an array of whole numbers that all fit uint64 is uint64; if NumPy cannot, it makes
# objects or raises, as it does for numbers too large for any integer type.
# What happens: the type is found number by number: up to 2**63 - 1 it is int64, from 2**63 it is
# uint64, and what holds both is float64. Of random 64-bit hashes half are of each kind, so a list
# of two is float64 every second time; one of only small or only large ones is an integer array. 53
# bits of each number are left. The repeated field uint64_contents of the protocol's messages, read
# with np.asarray, gives the same, though each of its elements is uint64 by its type.
# Why it matters: hashed ids are ordinary inputs of networks with embeddings. float64 then casts to
# uint64 without an error, to another id. Say the dtype where the list is read.
#
# Output seen:
#     [2**63 + 1]                              uint64
#     [1, 2**63 + 1]                           float64
#     back as uint64                           [1, 9223372036854775808]
#     2**63 + 1 and 2**63 + 2, beside a 1      equal: True
#     np.asarray(contents.uint64_contents)     float64
#     np.array(..., np.uint64)                 [1, 9223372036854775809]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==6.33.6 tritonclient[grpc]==2.73.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
from tritonclient.grpc.service_pb2 import InferTensorContents

alone = np.array([2**63 + 1])
ids = [1, 2**63 + 1, 2**63 + 2]
mixed = np.array(ids)
back = mixed.astype(np.uint64)
field = np.asarray(InferTensorContents(uint64_contents=ids).uint64_contents)
right = np.array(ids, np.uint64)
print("[2**63 + 1]                             ", alone.dtype)
print("[1, 2**63 + 1]                          ", np.array(ids[:2]).dtype)
print("back as uint64                          ", back[:2].tolist())
print("2**63 + 1 and 2**63 + 2, beside a 1      equal:", bool(mixed[1] == mixed[2]))
print("np.asarray(contents.uint64_contents)    ", field.dtype)
print("np.array(..., np.uint64)                ", right[:2].tolist())
assert alone.dtype == np.uint64 and mixed.dtype == field.dtype == np.float64
assert mixed[1] == mixed[2] and back[1] == 2**63 and right.tolist() == ids
PROGRAM
