"""The checks that client and server make of a request."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import DTYPES

from forwardpass.proto.spec import (
    MAX_ELEMENTS,
    TensorError,
    TensorSpec,
    check_datatype,
    check_shape,
    check_symbols,
    format_shape,
)

SPEC = TensorSpec("x", "FP32", (-1, 3), ("batch", None))
X = "input 'x'"


def test_a_spec_reads_as_in_a_table() -> None:
    assert str(SPEC) == "x: FP32[-1, 3]"
    assert format_shape(()) == "[]"


def test_an_error_reports_thing_expectation_finding_and_fix() -> None:
    error = TensorError(X, expected="this", got="that", fix="do so")

    assert str(error) == "input 'x': expected this, got that; do so"
    assert (error.tensor, error.expected, error.got, error.fix) == (X, "this", "that", "do so")


@pytest.mark.parametrize("datatype", DTYPES)
def test_the_models_datatype_alone_passes(datatype: str) -> None:
    spec = TensorSpec("x", datatype, ())

    check_datatype(X, spec, datatype)
    for other in (set(DTYPES) - {datatype}) | {"", "BF16", datatype.lower(), f"{datatype} "}:
        with pytest.raises(TensorError, match=rf"expected datatype {datatype}, got '?{other}"):
            check_datatype(X, spec, other)


def test_the_fix_of_a_datatype_is_in_numpys_words() -> None:
    with pytest.raises(TensorError, match="to float32"):
        check_datatype(X, SPEC, "FP64")
    with pytest.raises(TensorError, match="use one of BOOL, UINT8"):
        check_datatype(X, SPEC, "float32")


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (10**6, 3), [2, 3]])
def test_shapes_that_fit(shape: Sequence[int]) -> None:
    check_shape(X, SPEC, shape)


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        ((-1, 3), (3,), ["[-1, 3]", "got [3]", "send shape [1, 3] for one row"]),
        ((-1, 3), (4,), ["rank 2", "got [4]", "rank 1", "send 2 dimensions"]),
        ((-1, 3), (), ["rank 2", "got []", "rank 0"]),
        ((), (1,), ["rank 0", "got [1]", "rank 1"]),
        ((-1, 3), (2, 4), ["[-1, 3]", "got [2, 4]", "axis 1 must be 3 long, not 4"]),
        ((2, 3), (1, 3), ["[2, 3]", "got [1, 3]", "axis 0 must be 2 long, not 1"]),
        ((-1, 3), (-1, 3), ["got [-1, 3]", "axis 0"]),
        ((-1, 3), (2, -3), ["got [2, -3]"]),
        ((-1, -1), (-2, -3), ["got [-2, -3]"]),
        ((-1, -1), (2**62, 0), ["at most", f"got [{2**62}, 0]", "fewer rows"]),
        ((-1, -1), (0, 2**62), ["at most", f"got [0, {2**62}]", "fewer rows"]),
        ((-1, -1), (2**32, 2**32), ["at most", str(2**64)]),
        ((-1,), (MAX_ELEMENTS + 1,), [f"at most {MAX_ELEMENTS}"]),
    ],
)
def test_shapes_that_do_not_fit(
    spec: tuple[int, ...], shape: tuple[int, ...], says: list[str]
) -> None:
    with pytest.raises(TensorError) as caught:
        check_shape(X, TensorSpec("x", "FP32", spec), shape)

    assert str(caught.value).startswith(f"{X}: expected ")
    for fragment in says:
        assert fragment in str(caught.value)


def test_the_largest_shape_passes() -> None:
    check_shape(X, TensorSpec("x", "FP32", (-1,)), (MAX_ELEMENTS,))


def test_a_hint_never_names_what_is_rejected_too() -> None:
    with pytest.raises(TensorError) as caught:
        check_shape(X, TensorSpec("x", "FP32", (-1, -1)), (-1,))

    assert "[1, -1]" not in caught.value.fix


LENGTHS = st.one_of(st.integers(0, 6), st.integers(-(2**63), 2**63 - 1))


@given(
    st.lists(st.sampled_from([-1, 0, 1, 3]), max_size=4).map(tuple),
    st.lists(LENGTHS, max_size=5).map(tuple),
)
def test_a_shape_passes_exactly_if_it_fits(spec: tuple[int, ...], shape: tuple[int, ...]) -> None:
    elements = 1
    for size in shape:
        elements *= max(size, 1)
    fits = (
        len(shape) == len(spec)
        and all(size >= 0 for size in shape)
        and all(wanted in (-1, size) for wanted, size in zip(spec, shape, strict=True))
        and elements <= MAX_ELEMENTS
    )
    try:
        check_shape(X, TensorSpec("x", "FP32", spec), shape)
    except TensorError:
        assert not fits
    else:
        assert fits


SPECS = {
    "a": TensorSpec("a", "FP32", (-1, 2), ("batch", None)),
    "b": TensorSpec("b", "FP32", (-1, -1), ("batch", "width")),
    "c": TensorSpec("c", "FP32", (-1, -1), (None, None)),
    "d": TensorSpec("d", "FP32", (-1,)),
}


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": (2, 2), "b": (2, 9), "c": (7, 8), "d": (9,)},
        {"b": (0, 5), "a": (0, 2)},
        {"c": (1, 2)},
        {},
    ],
)
def test_axes_of_one_name_and_length_pass(shapes: Mapping[str, Sequence[int]]) -> None:
    check_symbols(SPECS, shapes)


def test_axes_of_one_name_and_two_lengths_are_refused() -> None:
    with pytest.raises(
        TensorError, match=r"input 'b': expected batch = 2 as in input 'a', got batch = 3"
    ):
        check_symbols(SPECS, {"a": (2, 2), "b": (3, 2)})


def test_one_name_twice_in_one_input_is_one_length() -> None:
    square = TensorSpec("x", "FP32", (-1, -1), ("n", "n"))
    check_symbols({"x": square}, {"x": (3, 3)})

    with pytest.raises(TensorError, match="expected n = 3"):
        check_symbols({"x": square}, {"x": (3, 4)})
