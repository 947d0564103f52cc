#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: a Cast of text takes the digits in front, and a double loses half of
# its own.
#
# Expected: the text of a number becomes that number and any other text is an error, as in NumPy,
# pandas and onnx.reference; a double written as text and read back is the same double.
# What happens: text to an integer is C's strtoll, which stops at the first character that is no
# digit: "1e3" is 1, "1_000" is 1, "0x10" is 0, "12-34" is 12, without an error. To a narrow
# integer the rest wraps: "300" is 44 as an int8. To a float "0x10" is 16, and "1e3" is 1000. Only
# text with no digit in front fails. A double becomes text of 8 significant digits, too few even
# for a float32: 123456789 is read back as 123456790. (An int64 keeps all of its digits.)
# Why it matters: such a Cast stands in front of a table of ids or categories in a graph that
# reads text. A quantity written by another program, or an id with a dash, gets the row of another
# id.
#
# Output seen:
#     text            int64   int8   float
#     1e3             1       1      1000.0
#     1_000           1       1      1.0
#     0x10            0       0      16.0
#     12-34           12      12     12.0
#     300             300     44     300.0
#     9007199254740993 as int32: 1
#     doubles as text: ['123456789.0', '0.3333333333333333'] ['1.2345679e+08', '0.33333333']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 protobuf==7.36.2 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)


def cast(values, source, target):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=target)],
        "cast",
        [helper.make_tensor_value_info("x", source, ["n"])],
        [helper.make_tensor_value_info("y", target, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": values})[0].tolist()


def read(text, target):
    return cast(np.array(text, object), TensorProto.STRING, target)


texts = ["1e3", "1_000", "0x10", "12-34", "300"]
kinds = [TensorProto.INT64, TensorProto.INT8, TensorProto.FLOAT]
integers, bytes_, floats = (read(texts, kind) for kind in kinds)
print("text            int64   int8   float")
for row in zip(texts, integers, bytes_, floats, strict=True):
    print("{:16}{:<8}{:<7}{}".format(*row))
large = read(["9007199254740993"], TensorProto.INT32)
print("9007199254740993 as int32:", *large)
doubles = [123456789.0, 1 / 3]
written = cast(np.array(doubles), TensorProto.DOUBLE, TensorProto.STRING)
print("doubles as text:", list(map(repr, doubles)), written)
assert integers == [1, 1, 0, 12, 300] and bytes_ == [1, 1, 0, 12, 44] and large == [1]
assert floats == [1000, 1, 16, 12, 300]
assert written == ["1.2345679e+08", "0.33333333"]
for text in texts[1:4]:
    try:
        int(text)
    except ValueError:
        continue
    assert text == "1_000"  # The one that Python reads too, as 1000.
PROGRAM
