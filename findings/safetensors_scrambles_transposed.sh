#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: a transposed array is stored with its numbers in other
# places.
#
# Expected: save_file stores the values of an array, as np.save and np.savez do, whatever its
# layout, or raises for one that is not contiguous, as safetensors.torch does.
# What happens: it takes the memory from where the array begins, in the order of the memory, and
# the shape from the array. W.T of a matrix becomes the numbers of W reshaped; of a slice with a
# step, x[::2], the file holds the values that lie next to each other. Under a square matrix
# nothing shows: the shape is right, and the file is of the right size. (A docstring asks for
# contiguous arrays.)
# Why it matters: names and layouts differ between frameworks by just this transpose: Keras and
# scikit-learn keep [inputs, outputs], PyTorch [outputs, inputs], and one writes `coef_.T`. The
# network loads and answers. Use np.ascontiguousarray on each array.
#
# Output seen:
#     stored as        W.T read back                        x[::2] of 0..5
#     safetensors      [[0, 1], [2, 3], [4, 5]]             [0, 1, 2]
#     numpy            [[0, 3], [1, 4], [2, 5]]             [0, 2, 4]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 safetensors==0.8.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
from safetensors.numpy import load_file, save_file

arrays = {
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "stepped": np.arange(6, dtype=np.float32)[::2],
}
save_file(arrays, "weights.safetensors")
np.savez("weights.npz", **arrays)
read = {"safetensors": load_file("weights.safetensors"), "numpy": np.load("weights.npz")}
print("stored as        W.T read back                        x[::2] of 0..5")
for name, stored in read.items():
    transposed, stepped = (stored[key].astype(int).tolist() for key in arrays)
    print(f"{name:16} {transposed!s:36} {stepped}")
assert all(np.array_equal(read["numpy"][key], array) for key, array in arrays.items())
assert read["safetensors"]["transposed"].tolist() == [[0, 1], [2, 3], [4, 5]]
assert read["safetensors"]["stepped"].tolist() == [0, 1, 2]
PROGRAM
