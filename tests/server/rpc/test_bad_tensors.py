"""A tensor that does not fit is INVALID_ARGUMENT, with its name, what came and the fix."""

import pytest
from support.bad_requests import (
    LONG,
    Bad,
    assert_refused,
    both,
    contents,
    message,
    no_contents,
    raw,
    tensor,
    twice,
    without,
)
from support.rpc import Stub

from forwardpass.proto import inference_pb2 as pb

X = "input 'x'"
A = "input 'a'"
B = "input 'b'"

NAMES = [
    Bad("unknown input", "linear", tensor(name="z"), ("one of 'x'", "got 'z'"), "input 'z'"),
    Bad("empty input name", "linear", tensor(name=""), ("one of 'x'", "got ''"), "input ''"),
    Bad("input in capitals", "linear", tensor(name="X"), ("one of 'x'", "got 'X'"), "input 'X'"),
    Bad("control characters in a name", "linear", tensor(name="x\n\0"), ("'x\\n\\x00'",)),
    Bad("input name of 100 kB", "linear", tensor(name="n" * LONG), ("input 'nnn",)),
    Bad("input name of 100 kB, not ASCII", "linear", tensor(name="é" * LONG), ("input 'ééé",)),
    Bad("no input", "linear", without(0), ("all of 'x'", "got no input"), X),
    Bad("first input missing", "pair", without(0), ("all of 'a', 'b'", "got 'b'"), A),
    Bad("second input missing", "pair", without(1), ("all of 'a', 'b'", "got 'a'"), B),
    Bad("missing, typed", "pair typed", without(1), ("all of 'a', 'b'", "got 'a'"), B),
    Bad("extra input", "linear", twice(0, name="z"), ("one of 'x'", "got 'z'"), "input 'z'"),
    Bad("extra, typed", "linear typed", twice(0, name="z"), ("got 'z'",), "input 'z'"),
    Bad("same input twice", "linear", twice(0), ("got it twice",), X),
    Bad("same input twice, typed", "linear typed", twice(0), ("got it twice",), X),
    Bad("one twice, the other missing", "pair", tensor(1, name="a"), ("got it twice",), A),
]

DATATYPES = [
    Bad("FP64 for FP32", "linear", tensor(datatype="FP64"), ("FP32", "got FP64", "float32"), X),
    Bad("INT32 for FP32", "linear", tensor(datatype="INT32"), ("FP32", "got INT32"), X),
    Bad("FP16 for FP32", "linear", tensor(datatype="FP16"), ("FP32", "got FP16"), X),
    Bad("BYTES for FP32", "linear", tensor(datatype="BYTES"), ("FP32", "got BYTES"), X),
    Bad("FP32 for BYTES", "text", tensor(datatype="FP32"), ("BYTES", "got FP32"), X),
    Bad("INT8 for UINT8", "UINT8 typed", tensor(datatype="INT8"), ("UINT8", "got INT8"), X),
    Bad("wrong in the second input", "pair", tensor(1, datatype="FP64"), ("got FP64",), B),
    Bad("lower case", "linear", tensor(datatype="fp32"), ("FP32", "'fp32'", "not a datatype"), X),
    Bad("empty datatype", "linear", tensor(datatype=""), ("FP32", "''", "not a datatype"), X),
    Bad("a NumPy name", "linear", tensor(datatype="float32"), ("'float32'", "UINT8"), X),
    Bad("BF16", "linear", tensor(datatype="BF16"), ("'BF16'", "not a datatype"), X),
    Bad("with a space", "linear", tensor(datatype="FP32 "), ("'FP32 '", "not a datatype"), X),
    Bad("datatype of 100 kB", "linear", tensor(datatype="F" * LONG), ("FP32", "FFF"), X),
]

SHAPES = [
    Bad("one row as a vector", "linear", tensor(shape=[3]), ("got [3]", "send shape [1, 3]"), X),
    Bad("a vector of another length", "linear", tensor(shape=[6]), ("[-1, 3]", "got [6]"), X),
    Bad("a scalar for a matrix", "linear", tensor(shape=[]), ("[-1, 3]", "got []", "rank 0"), X),
    Bad("rank 3", "linear", tensor(shape=[1, 2, 3]), ("rank 2", "got [1, 2, 3]", "rank 3"), X),
    Bad("a vector for a scalar", "scalar", tensor(shape=[1]), ("rank 0", "got [1]"), X),
    Bad("64 dimensions", "linear", tensor(shape=[1] * 64), ("[-1, 3]", "got [1, 1"), X),
    Bad(
        "65 dimensions",
        "linear",
        tensor(shape=[1] * 65),
        ("at most 64", "got 65 or more"),
        "inputs[0].shape",
    ),
    Bad("too many columns", "linear", tensor(shape=[2, 4]), ("[-1, 3]", "[2, 4]", "axis 1"), X),
    Bad("too few columns", "linear", tensor(shape=[3, 2]), ("[-1, 3]", "[3, 2]", "axis 1"), X),
    Bad("no columns", "linear", tensor(shape=[2, 0]), ("[-1, 3]", "[2, 0]"), X),
    Bad("fixed batch, fewer rows", "fixed", tensor(shape=[1, 3]), ("[2, 3]", "[1, 3]"), X),
    Bad("fixed batch, no row", "fixed", tensor(shape=[0, 3]), ("[2, 3]", "[0, 3]", "axis 0"), X),
    Bad("-1 as on the model", "linear", tensor(shape=[-1, 3]), ("got [-1, 3]", "axis 0"), X),
    Bad("negative columns", "linear", tensor(shape=[2, -3]), ("got [2, -3]",), X),
    Bad("two negatives make the count", "free", tensor(shape=[-2, -3]), ("got [-2, -3]",), X),
    Bad("most negative", "free", tensor(shape=[-(2**63), 1]), (f"got [{-(2**63)}, 1]",), X),
    Bad("huge rows", "linear", tensor(shape=[2**62, 3]), (f"got [{2**62}, 3]", "at most"), X),
    Bad("largest rows", "linear", tensor(shape=[2**63 - 1, 3]), (f"{2**63 - 1}",), X),
    Bad("a product of 2^64", "free", tensor(shape=[2**32, 2**32]), (f"{2**64}", "at most"), X),
    Bad("a product above 2^31", "free", tensor(shape=[2**31, 1]), (f"{2**31}", "at most"), X),
    Bad(
        "a zero beside 2^62",
        "free",
        both(tensor(shape=[0, 2**62]), raw(b"")),
        (f"got [0, {2**62}]", "at most"),
        X,
    ),
    Bad(
        "a zero beside 2^62, typed",
        "linear typed",
        both(message(model_name="echo_fp32_2"), tensor(shape=[0, 2**62]), no_contents()),
        (f"got [0, {2**62}]",),
        X,
    ),
    Bad(
        "one name and two lengths",
        "square",
        tensor(shape=[1, 4]),
        ("n = 1", "got n = 4"),
        X,
    ),
    Bad(
        "batches of two lengths",
        "pair",
        lambda request: request.CopyFrom(
            pb.ModelInferRequest(
                model_name="pair",
                inputs=[
                    pb.ModelInferRequest.InferInputTensor(name="a", datatype="FP32", shape=[2, 2]),
                    pb.ModelInferRequest.InferInputTensor(name="b", datatype="FP32", shape=[3, 2]),
                ],
                raw_input_contents=[bytes(16), bytes(24)],
            )
        ),
        ("batch = 2", "input 'a'", "got batch = 3"),
        B,
    ),
]

RAW = [
    Bad("one byte short", "linear", raw(bytes(23)), ("24 raw bytes", "got 23"), X),
    Bad("one byte more", "linear", raw(bytes(25)), ("24 raw bytes", "got 25"), X),
    Bad("half the bytes", "linear", raw(bytes(12)), ("24 raw bytes", "FP32[2, 3]", "got 12"), X),
    Bad("float64 bytes", "linear", raw(bytes(48)), ("24 raw bytes", "got 48"), X),
    Bad("an empty entry", "linear", raw(b""), ("24 raw bytes", "got 0"), X),
    Bad("a byte for a scalar", "scalar", raw(b"\0"), ("4 raw bytes", "got 1"), X),
    Bad("bytes for no rows", "linear", tensor(shape=[0, 3]), ("0 raw bytes", "got 24"), X),
    Bad("a shape of more", "linear", tensor(shape=[10**6, 3]), ("[1000000, 3]", "got 24"), X),
    Bad("FP16 as four bytes each", "half", raw(bytes(8)), ("4 raw bytes", "FP16", "got 8"), X),
    Bad("the second is short", "pair", raw(bytes(16), bytes(15)), ("16 raw", "got 15"), B),
    Bad("no data at all", "linear", raw(), ("raw_input_contents", "got none"), X),
    Bad("no data, several inputs", "pair", raw(), ("raw_input_contents", "got none"), A),
    Bad(
        "fewer entries than inputs",
        "pair",
        raw(bytes(16)),
        ("2 entries", "got 1"),
        "raw_input_contents",
    ),
    Bad(
        "more entries than inputs",
        "linear",
        raw(bytes(24), b""),
        ("1 entries", "got 2"),
        "raw_input_contents",
    ),
    Bad(
        "entries and no inputs",
        "linear",
        both(without(0), raw(b"x")),
        ("0 entries", "got 1"),
        "raw_input_contents",
    ),
    Bad(
        "raw and typed for one input",
        "linear",
        contents(fp32_contents=[1.0] * 6),
        ("raw_input_contents alone", "typed contents", "never mixed"),
        X,
    ),
    Bad(
        "one raw, one typed",
        "pair",
        both(contents(1, fp32_contents=[1.0] * 4), raw(bytes(16))),
        ("raw_input_contents alone", "typed contents", "never mixed", "for 'b' for model 'pair'"),
        B,
    ),
    Bad(
        "all raw, one typed as well",
        "pair",
        contents(1, fp32_contents=[1.0] * 4),
        ("typed contents", "never mixed"),
        B,
    ),
]

TYPED = [
    Bad("too few", "linear typed", contents(fp32_contents=[1.0] * 5), ("6 elements", "got 5"), X),
    Bad("too many", "linear typed", contents(fp32_contents=[1.0] * 7), ("6 elements", "got 7"), X),
    Bad("none", "linear typed", contents(), ("6 elements", "got 0"), X),
    Bad("no contents", "linear typed", no_contents(), ("contents", "got none"), X),
    Bad("one has no contents", "pair typed", no_contents(1), ("contents", "got none"), B),
    Bad(
        "FP32 as doubles",
        "linear typed",
        contents(fp64_contents=[1.0] * 6),
        ("fp32_contents", "got data in fp64_contents"),
        X,
    ),
    Bad(
        "FP32 as bytes",
        "linear typed",
        contents(bytes_contents=[bytes(24)]),
        ("fp32_contents", "got data in bytes_contents"),
        X,
    ),
    Bad(
        "INT64 as int32",
        "INT64 typed",
        contents(int_contents=[1, 2]),
        ("int64_contents", "got data in int_contents"),
        X,
    ),
    Bad(
        "INT32 as int64",
        "INT32 typed",
        contents(int64_contents=[1, 2]),
        ("int_contents", "got data in int64_contents"),
        X,
    ),
    Bad(
        "INT8 as unsigned",
        "INT8 typed",
        contents(uint_contents=[1, 2]),
        ("int_contents", "got data in uint_contents"),
        X,
    ),
    Bad(
        "UINT64 as uint32",
        "UINT64 typed",
        contents(uint_contents=[1, 2]),
        ("uint64_contents", "got data in uint_contents"),
        X,
    ),
    Bad(
        "text as numbers",
        "text typed",
        contents(fp32_contents=[1.0, 2.0]),
        ("bytes_contents", "got data in fp32_contents"),
        X,
    ),
    Bad(
        "two fields, the right one first",
        "INT32 typed",
        contents(int_contents=[1, 2], int64_contents=[1, 2]),
        ("int_contents", "got data in int64_contents"),
        X,
    ),
    Bad(
        "two fields, the right one last",
        "linear typed",
        contents(bool_contents=[True], fp32_contents=[1.0] * 6),
        ("fp32_contents", "got data in bool_contents"),
        X,
    ),
    Bad(
        "FP16 as typed",
        "half",
        both(raw(), contents(fp32_contents=[1.0, 2.5])),
        ("FP16 as raw_input_contents", "got typed contents"),
        X,
    ),
    Bad(
        "the count of another shape",
        "linear typed",
        tensor(shape=[1, 3]),
        ("3 elements", "[1, 3]", "got 6"),
        X,
    ),
]

RANGES = [
    Bad(
        f"{value} as {datatype}",
        f"{datatype} typed",
        contents(0, **{field: [1, value]}),
        (f"{datatype} values in {lowest}..{highest}", f"got {value}"),
        X,
    )
    for datatype, field, lowest, highest, values in [
        ("UINT8", "uint_contents", 0, 255, (256, 1000, 2**32 - 1)),
        ("UINT16", "uint_contents", 0, 65535, (65536, 2**32 - 1)),
        ("INT8", "int_contents", -128, 127, (-129, 128, 1000, -(2**31))),
        ("INT16", "int_contents", -32768, 32767, (-32769, 32768, 2**31 - 1)),
    ]
    for value in values
]

BYTES = [
    Bad("a length cut short", "text", raw(b"\3\0\0\0one\0\0"), ("2 BYTES elements",), X),
    Bad("an element cut short", "text", raw(b"\3\0\0\0one\5\0\0\0tw"), ("5 bytes with 2 left",), X),
    Bad("a length of 2^32 - 1", "text", raw(b"\xff\xff\xff\xff" + bytes(4)), (f"{2**32 - 1}",), X),
    Bad("too few elements", "text", raw(b"\7\0\0\0one two"), ("2 BYTES elements", "got 1"), X),
    Bad("too many elements", "text", raw(bytes(12)), ("2 BYTES elements", "got 4 bytes more"), X),
    Bad("bytes after the last", "text", raw(bytes(9)), ("2 BYTES elements", "got 1 bytes more"), X),
    Bad("no bytes", "text", raw(b""), ("2 BYTES elements", "got 0 bytes"), X),
    Bad("text without lengths", "text", raw(b"one two"), ("4-byte little-endian length",), X),
    Bad("big-endian lengths", "text", raw(b"\0\0\0\3one" + bytes(4)), (str(3 << 24),), X),
    Bad("more than can be there", "text", tensor(shape=[10**6]), ("1000000 BYTES",), X),
    Bad("not UTF-8", "text", raw(b"\2\0\0\0\xff\xfe" + bytes(4)), ("UTF-8", r"b'\xff\xfe'"), X),
    Bad("not UTF-8, typed", "text typed", contents(bytes_contents=[b"\xe9", b""]), ("UTF-8",), X),
    Bad(
        "a surrogate", "text typed", contents(bytes_contents=[b"\xed\xa0\x80", b""]), ("UTF-8",), X
    ),
    Bad("too few, typed", "text typed", contents(bytes_contents=[b"one"]), ("2 elem", "got 1"), X),
]

TABLE = [
    *NAMES,
    *DATATYPES,
    *SHAPES,
    *RAW,
    *TYPED,
    *RANGES,
    *BYTES,
]


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_is_refused_with_its_code_and_what_is_wrong(stub: Stub, bad: Bad) -> None:
    assert_refused(stub, bad)


def test_no_two_rows_have_one_name() -> None:
    ids = [bad.id for bad in TABLE]
    assert len(set(ids)) == len(ids)
