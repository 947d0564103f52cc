import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forwardpass.client._messages import inputs as _inputs
from forwardpass.client._messages.casting import cast
from forwardpass.client._messages.inputs import undeclared
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorError, TensorSpec

MATRIX = (TensorSpec("x", "FP32", (-1, 3)),)
PAIR = (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "INT64", (-1,)))


def read_inputs(specs, x, features=None):
    """The arrays as they are sent, and whether they were a single row."""
    given_ = _inputs.read_inputs(specs, x, features or {})
    arrays_ = tuple(cast(spec, array) for spec, array in zip(specs, given_.arrays, strict=True))
    return arrays_, given_.single_row


def read(datatype, x, shape=(-1,)):
    (array,), _ = read_inputs((TensorSpec("x", datatype, shape),), x)
    return array


def refused(text):
    return pytest.raises(TensorError, match=re.escape(text))


@pytest.mark.parametrize(
    ("datatype", "x", "dtype"),
    [
        ("FP32", np.array([1.5], np.float64), np.float32),
        ("FP32", np.array([1.5], ">f8"), np.float32),
        ("FP32", np.array([1.5], np.float16), np.float32),
        ("FP64", np.array([1.5], np.float32), np.float64),
        ("FP32", [1, 2], np.float32),
        ("FP16", [1, 2.5], np.float16),
        ("FP32", [True, False], np.float32),
        ("INT32", [1, -2], np.int32),
        ("UINT8", [0, 255], np.uint8),
        ("INT64", np.array([3], np.uint64), np.int64),
        ("INT8", [True], np.int8),
        ("BOOL", [True], np.bool_),
        ("INT8", np.zeros(0, np.int64), np.int8),
    ],
)
def test_a_cast_that_keeps_the_meaning_is_done(datatype, x, dtype):
    array = read(datatype, x)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.asarray(x))


def test_an_array_of_the_right_dtype_is_taken_without_a_copy():
    x = np.zeros((2, 3), np.float32)
    assert read("FP32", x, (-1, 3)) is x


@pytest.mark.parametrize(
    ("datatype", "x", "text"),
    [
        ("INT64", [1.0], "expected datatype INT64, got FP64; convert the array to int64 before"),
        ("BOOL", [1], "expected datatype BOOL, got INT64; convert the array to bool before"),
        ("FP32", ["1"], "expected datatype FP32, got BYTES; convert the array to float32"),
        ("FP32", [1j], "expected datatype FP32, got complex128; convert the array to float32"),
        ("FP32", np.array(["2020-01-01"], "M8[D]"), "expected datatype FP32, got datetime64[D]"),
        ("FP32", [1.0, None], "expected a value everywhere, got a missing one in row 1, counting"),
        ("FP32", np.empty(0, object), "expected datatype FP32, got object;"),
        ("INT8", [1, 128], "expected INT8 values in -128..127, got 128"),
        ("UINT8", [-1], "expected UINT8 values in 0..255, got -1"),
        ("INT64", np.array([2**63], np.uint64), "got 9223372036854775808"),
        ("FP32", [0.0, -1e39], "expected FP32 values of magnitude up to 3.40282e+38, got -1e+39"),
        ("FP16", [70000], "expected FP16 values of magnitude up to 65504, got 70000"),
        ("FP32", [[1.0], [1.0, 2.0]], "expected an array, got a list that NumPy refuses"),
        ("BYTES", [b"a", 5], "expected BYTES elements, each of bytes or str, got 5"),
        ("BYTES", np.array([5]), "expected BYTES elements, each of bytes or str, got 5"),
        ("INT8", np.array([1], np.longdouble), "expected datatype INT8, got"),
        (
            "FP32",
            np.zeros(1, "f4,f4"),
            "expected datatype FP32, got [('f0', '<f4'), ",
        ),
        (
            "FP32",
            np.ma.masked_invalid([1.0, np.nan]),
            "expected a value everywhere, got a missing one in row 1, counting from 0 (1 of 2)",
        ),
        ("BF16", [1.0], "expected datatype BF16, got float64; this client cannot send that"),
    ],
)
def test_a_cast_that_loses_the_meaning_is_refused(datatype, x, text):
    with refused(f"input 'x': {text}" if text.startswith("expected") else text):
        read(datatype, x)


BIG = 2**64 - 1


@pytest.mark.parametrize(
    "x",
    [
        [BIG, 1],
        (BIG, True),
        [[BIG, 1], [2**53 + 1, 2**63 + 1]],
        [np.uint64(BIG), np.int64(2**53 + 1)],
        [np.array([BIG], np.uint64), np.array([2**53 + 1])],
        np.array([BIG, 1], object),
        pd.Series([BIG, 1], dtype=object),
        pl.Series([BIG, 1], dtype=pl.UInt64),
        [BIG],
        BIG,
    ],
    ids=repr,
)
def test_integers_are_read_exactly_whatever_their_size(x):
    expected = np.array([[int(each) for each in np.ravel(np.asarray(x, object))]], np.uint64)
    array = read("UINT64", x, (-1,) * np.asarray(x, object).ndim)
    assert array.dtype == np.uint64
    assert array.ravel().tolist() == expected.ravel().tolist()
    # Nor are they floats for a server that does not describe its model.
    (spec,) = undeclared({"x": x})
    assert spec.datatype == "UINT64"


def test_a_list_of_integers_is_read_exactly_in_columns():
    spec = (TensorSpec("x", "UINT64", (-1, 2)),)
    columns = {"b": [1, BIG], "a": [BIG - 1, 0]}
    for x in (columns, [{"b": 1, "a": BIG - 1}, {"b": BIG, "a": 0}]):
        (array,), _ = read_inputs(spec, x, {"x": ("a", "b")})
        assert array.tolist() == [[BIG - 1, 1], [0, BIG]]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("exponent", [3, 30, 200])
def test_integers_larger_than_any_of_numpy_are_rounded_to_floats(datatype, exponent):
    x = [10**exponent, -(10**exponent), 0.5, True]
    dtype = DATATYPES[datatype].dtype
    if 10**exponent > int(np.finfo(dtype).max):
        with refused(f"input 'x': expected {datatype} values of magnitude up to"):
            read(datatype, x)
    else:
        assert read(datatype, x).tolist() == np.array([float(each) for each in x], dtype).tolist()


@pytest.mark.parametrize(
    ("datatype", "x", "text"),
    [
        ("UINT64", [BIG + 1], "values in 0..18446744073709551615, got 18446744073709551616; send"),
        ("UINT64", [BIG, -1], "values in 0..18446744073709551615, got -1; send"),
        ("INT64", [2**63, 1], "9223372036854775807, got 9223372036854775808; send"),
        ("INT8", [10**30, None], "a value everywhere, got a missing one in row 1"),
        ("UINT64", [BIG, 0.5], "expected datatype UINT64, got FP64"),
        ("UINT64", [10**30, 0.5], "expected datatype UINT64, got FP64"),
        ("BOOL", [10**30], "expected datatype BOOL, got FP64"),
        ("FP32", [10**30, "7"], "expected datatype FP32, got '7' at [1]; convert it"),
        ("FP64", [1, -(10**400)], "up to 1.79769e+308, got about -1e400; scale"),
        # Python prints no integer of more than 4300 digits.
        ("UINT64", [10**5000], "values in 0..18446744073709551615, got about 1e5000; send"),
    ],
)
def test_a_number_that_does_not_fit_is_named(datatype, x, text):
    with refused(text):
        read(datatype, x)


def test_a_missing_value_beside_a_large_integer_is_nan():
    spec = TensorSpec("x", "FP32", (-1,))
    x: list[Any] = [10**30, None]
    (given_,) = _inputs.read_inputs((spec,), x, {}, "nan").arrays
    array = cast(spec, given_)
    np.testing.assert_array_equal(array, np.array([1e30, np.nan], np.float32))


def test_infinities_and_nan_pass_a_cast_unchanged():
    array = read("FP32", [np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(array, np.array([np.inf, -np.inf, np.nan], np.float32))


def test_a_masked_array_without_masked_values_passes():
    assert read("FP32", np.ma.array([1.0])).tolist() == [1]


def test_underflow_rounds_to_zero_in_silence():
    with np.errstate(all="raise"):
        assert read("FP32", [1e-300]) == 0


def test_nul_bytes_at_the_end_of_an_element_are_kept():
    assert read("BYTES", [b"a\0", "\N{GREEK SMALL LETTER MU}"]).tolist() == [b"a\0", "μ"]


@given(
    arrays(np.int64, st.integers(0, 5), elements=st.integers(-(2**40), 2**40)),
    st.sampled_from(["INT8", "INT16", "INT32", "UINT8", "UINT32"]),
)
@settings(deadline=None)
def test_integers_arrive_as_they_are_or_not_at_all(x, datatype):
    try:
        array = read(datatype, x)
    except TensorError:
        return
    np.testing.assert_array_equal(array, x)


@given(arrays(np.float64, st.integers(0, 5), elements=st.floats()))
@settings(deadline=None)
def test_finite_floats_stay_finite_or_are_refused(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            array = read("FP32", x)
        except TensorError:
            return
    np.testing.assert_array_equal(np.isfinite(array), np.isfinite(x))


def test_a_single_row_gets_a_row_axis():
    (array,), single_row = read_inputs(MATRIX, [1, 2, 3])
    assert (array.shape, single_row) == ((1, 3), True)


def test_a_batch_of_one_is_no_single_row():
    (array,), single_row = read_inputs(MATRIX, [[1, 2, 3]])
    assert (array.shape, single_row) == ((1, 3), False)


@pytest.mark.parametrize(
    ("declared", "given_", "sent"),
    [
        ((1, 3), (3,), (1, 3)),
        ((-1, 3, 8, 8), (3, 8, 8), (1, 3, 8, 8)),
        ((-1,), (), (1,)),
        ((1,), (), ()),
        ((), (), ()),
        ((5, 3), (3,), (3,)),
        ((-1, 3), (), ()),
        ((-1, 3), (1, 1, 3), (1, 1, 3)),
    ],
)
def test_only_what_lacks_exactly_the_row_axis_gets_one(declared, given_, sent):
    assert read("FP32", np.zeros(given_, np.float32), declared).shape == sent


def test_inputs_come_in_the_model_order():
    given_ = {"b": [7, 8], "a": [[1, 2, 3], [4, 5, 6]]}
    (a, b), single_row = read_inputs(PAIR, given_)
    assert a.shape == (2, 3)
    assert b.tolist() == [7, 8]
    assert not single_row


def test_single_rows_of_several_inputs_get_their_row_axes():
    (a, b), single_row = read_inputs(PAIR, {"a": [1, 2, 3], "b": 7})
    assert (a.shape, b.shape, single_row) == ((1, 3), (1,), True)


def test_an_input_without_a_row_axis_goes_with_rows_and_with_batches():
    specs = (*MATRIX, TensorSpec("t", "FP32", ()))
    (_, t), single_row = read_inputs(specs, {"x": [1, 2, 3], "t": 0.5})
    assert (t.shape, single_row) == ((), True)
    (_, t), single_row = read_inputs(specs, {"x": [[1, 2, 3]], "t": 0.5})
    assert (t.shape, single_row) == ((), False)


def test_rows_and_batches_are_not_mixed():
    with refused(
        "x: expected all inputs as single rows, or none, got 'a' [3] for [-1, 3], 'b' [2] for [-1];"
        " send every input with its row axis"
    ):
        read_inputs(PAIR, {"a": [1, 2, 3], "b": [7, 8]})


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (
            [1, 2, 3],
            "x: expected a dict of arrays for 2 inputs: a: FP32[-1, 3], b: INT64[-1], got one "
            "list; send {name: array} with every input",
        ),
        (
            {"a": [[1, 2, 3]], "c": [7]},
            "input 'c': expected one of 'a', 'b', got 'c'; use the names of ModelMetadata",
        ),
        (
            {"a": [[1, 2, 3]]},
            "input 'b': expected all of 'a', 'b', got 'a'; send 'b' too",
        ),
        ({}, "input 'a': expected all of 'a', 'b', got no input; send 'a' too"),
    ],
)
def test_inputs_by_other_names_are_refused(x, text):
    with refused(text):
        read_inputs(PAIR, x)


def test_a_model_without_inputs_takes_an_empty_dict():
    assert read_inputs((), {}) == ((), False)


def test_undeclared_inputs_take_the_datatypes_and_shapes_of_the_arrays():
    assert undeclared({"x": np.zeros((2, 3), ">f4"), "s": ["a"]}) == (
        TensorSpec("x", "FP32", (2, 3)),
        TensorSpec("s", "BYTES", (1,)),
    )


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ([1.0], "x: expected a dict of arrays, as the server does not report the model's inputs"),
        ({"x": [1j]}, "input 'x': expected a dtype of BOOL,"),
        ({"x": [[1], [1, 2]]}, "input 'x': expected an array, got a list that NumPy refuses"),
    ],
)
def test_undeclared_inputs_need_names_and_datatypes(x, text):
    with refused(text):
        undeclared(x)
