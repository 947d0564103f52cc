#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6 and onnx 1.23.2: the sum of a thousand ones in bfloat16 is 256.
#
# Expected: NumPy sums, means and deviations of bfloat16 are as exact as those of float16, which
# NumPy computes in float32 or pairwise: 1000 for a thousand ones. np.sort puts NaN last. Small
# integers are summed in a wide one, as NumPy does for int8.
# What happens: ml_dtypes gives NumPy one addition with a result in bfloat16 and NumPy adds one
# value at a time, so a sum of ones stops at 256 (2**8). mean is 0.256, and std is off by a third;
# x @ x is right. sort leaves a NaN where it stands and what is around it unsorted. int4 wraps:
# ten sevens are 6, their mean is 0. onnx.numpy_helper.to_array answers with these types, np.save
# keeps only |V2.
# Why it matters: a comparison of weights, a calibration or a mean over rows in bfloat16 is a
# number of the right kind and far off; float16 code that works is no proof. Use
# .astype(np.float32) first.
#
# Output seen:
#                        bfloat16   float16
#     sum of 1000 ones   256        1000
#     mean of them       0.2559     1
#     std of 0..1        0.408      0.289
#     sort of 3 nan 1 2  [3, nan, 1, 2] [1, 2, 3, nan]
#                        int4       int8
#     ten sevens         6          70
#     their mean         0          7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 ml-dtypes==0.6.0 onnx==1.23.2
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper


def from_onnx(values, kind):
    """Return what a reader of an ONNX file gets."""
    tensor = helper.make_tensor("w", kind, [len(values)], values)
    return numpy_helper.to_array(tensor)


def both(name, of, values, first, second):
    answers = [of(from_onnx(values, kind)) for kind in (first, second)]
    seen = [answer.tolist() if answer.ndim else float(answer) for answer in answers]
    print(f"{name:18}", *(f"{x:<10.4g}" if isinstance(x, float) else x for x in seen))
    return seen


wide = TensorProto.BFLOAT16, TensorProto.FLOAT16
print("                   bfloat16   float16")
sums = both("sum of 1000 ones", np.sum, [1] * 1000, *wide)
means = both("mean of them", np.mean, [1] * 1000, *wide)
deviations = both("std of 0..1", np.std, np.linspace(0, 1, 1000), *wide)
sorts = both("sort of 3 nan 1 2", np.sort, [3, np.nan, 1, 2], *wide)
print("                   int4       int8")
narrow = TensorProto.INT4, TensorProto.INT8
sevens = both("ten sevens", np.sum, [7] * 10, *narrow)
averages = both("their mean", np.mean, [7] * 10, *narrow)
assert from_onnx([1], TensorProto.BFLOAT16).dtype == ml_dtypes.bfloat16
assert sums == [256, 1000] and sevens == [6, 70] and averages == [0, 7]
assert abs(means[0] - 0.256) < 1e-3 and means[1] == 1
assert abs(deviations[0] - 0.289) > 0.05 and abs(deviations[1] - 0.289) < 1e-3
assert np.array_equal(sorts, [[3, np.nan, 1, 2], [1, 2, 3, np.nan]], equal_nan=True)
PROGRAM
