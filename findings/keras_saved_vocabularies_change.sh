#!/usr/bin/env bash
# Keras 3.15.1 with tensorflow-cpu 2.21.0: a model that is saved and loaded looks texts up in
# another vocabulary.
#
# Expected: load_model(save(model)) answers as the model does, or raises.
# What happens, without a word: the vocabulary that `adapt` learned is saved a line a token and read
# by str.splitlines. A token that ends with a carriage return, as the last column of a file with
# Windows' line ends has them, loses it, so that it is unknown from then on. A token with a line
# break becomes two, which moves every token after it to the next row of the Embedding; only
# one-hots notice, as their width changes. What set_vocabulary replaced is saved where the layer was
# made with a vocabulary: the old one is back.
# Why it matters: the model that is served is the loaded one, and was never evaluated. Compare
# get_vocabulary() before and after, strip what you adapt to, and give vocabularies as lists.
#
# Output seen:
#     learned      ['[UNK]', 'no\r', 'yes\r']         loaded ['[UNK]', 'no', 'yes']
#     rows 'no\r', 'yes\r'  [[1], [2]]                loaded [[0], [0]]
#     learned      ['[UNK]', 'a\nb', 'c']             loaded ['[UNK]', 'a', 'b', 'c']
#     row 'c'      [[2]]                              loaded [[3]]
#     replaced     ['[UNK]', 'b', 'a']                loaded ['[UNK]', 'a', 'b']
#     rows 'a', 'b'  [[2], [1]]                       loaded [[1], [2]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    keras==3.15.1 tensorflow-cpu==2.21.0 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PROGRAM'
import keras
import numpy as np


def answers(lookup, *texts):
    """The vocabulary and the indices of texts, before and after saving and loading."""
    x = keras.Input((1,), dtype="string")
    model = keras.Model(x, lookup(x))
    model.save("model.keras")
    rows = np.array(texts, object)[:, np.newaxis]
    found = []
    for each in (model, keras.saving.load_model("model.keras")):
        found += [[*map(str, each.layers[-1].get_vocabulary())], each(rows).numpy().tolist()]
    return found


def adapted(*texts):
    lookup = keras.layers.StringLookup()
    lookup.adapt(np.array(texts, object)[:, np.newaxis])
    return lookup


ends = answers(adapted("no\r", "no\r", "yes\r"), "no\r", "yes\r")
print("learned     ", ends[0], "        loaded", ends[2])
print("rows 'no\\r', 'yes\\r' ", ends[1], "               loaded", ends[3])
breaks = answers(adapted("a\nb", "a\nb", "c"), "c")
print("learned     ", breaks[0], "            loaded", breaks[2])
print("row 'c'     ", breaks[1], "                             loaded", breaks[3])
replaced = keras.layers.StringLookup(vocabulary=["a", "b"])
replaced.set_vocabulary(["b", "a"])
back = answers(replaced, "a", "b")
print("replaced    ", back[0], "               loaded", back[2])
print("rows 'a', 'b' ", back[1], "                      loaded", back[3])
assert (ends[1], ends[3]) == ([[1], [2]], [[0], [0]])
assert (breaks[1], breaks[3]) == ([[2]], [[3]])
assert (back[1], back[3]) == ([[2], [1]], [[1], [2]])
PROGRAM
