"""Arrays to wire tensors and back: nothing is lost, and nothing malformed passes."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from support.wire import DTYPES, TYPED_FIELDS, assert_same_bits, raw_bytes, texts

from forwardpass.proto.inference_pb2 import InferTensorContents
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import decode_raw, decode_typed, encode_raw

SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


def arrays(datatype: str) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of any shape and value, any bits of a float included."""
    if datatype == "BYTES":
        return hnp.arrays(
            DTYPES["BYTES"], SHAPES, elements=st.binary(max_size=9), fill=st.nothing()
        )
    return hnp.arrays(DTYPES[datatype], SHAPES)


def tensors(*datatypes: str) -> st.SearchStrategy[tuple[str, NDArray[Any]]]:
    return st.sampled_from(datatypes).flatmap(
        lambda datatype: st.tuples(st.just(datatype), arrays(datatype))
    )


def typed(array: NDArray[Any], datatype: str) -> InferTensorContents:
    contents = InferTensorContents()
    getattr(contents, TYPED_FIELDS[datatype]).extend(array.ravel().tolist())
    return contents


@given(tensors(*DTYPES))
def test_raw_round_trip(tensor: tuple[str, NDArray[Any]]) -> None:
    datatype, array = tensor

    raw = encode_raw(array, datatype)

    assert raw == raw_bytes(array)
    assert_same_bits(decode_raw("input 'x'", raw, datatype, array.shape), array)


@given(tensors(*TYPED_FIELDS))
def test_typed_round_trip(tensor: tuple[str, NDArray[Any]]) -> None:
    datatype, array = tensor

    decoded = decode_typed("input 'x'", typed(array, datatype), datatype, array.shape)

    if array.dtype.kind == "f":
        # A signalling NaN may lose its signal in the message; a NaN it stays.
        np.testing.assert_array_equal(decoded, array, strict=True)
    else:
        assert_same_bits(decoded, array)


GOLDEN = [
    ("BOOL", np.array([True, False]), "0100"),
    ("UINT16", np.array([1, 0x0203], np.uint16), "01000302"),
    ("INT32", np.array([-2], np.int32), "feffffff"),
    ("INT64", np.array(1), "0100000000000000"),
    ("FP16", np.array([1.0], np.float16), "003c"),
    ("FP32", np.array([[1.0], [-2.5]], np.float32), "0000803f000020c0"),
    ("FP64", np.array([1.0]), "000000000000f03f"),
    ("BYTES", texts(b"ab", b""), "02000000616200000000"),
]


@pytest.mark.parametrize(("datatype", "array", "expected"), GOLDEN)
def test_raw_bytes_are_the_protocols(datatype: str, array: NDArray[Any], expected: str) -> None:
    assert encode_raw(array, datatype).hex() == expected


@pytest.mark.parametrize("datatype", ["UINT16", "INT64", "FP16", "FP32", "FP64"])
def test_byte_order_and_layout_of_the_array_do_not_show(datatype: str) -> None:
    array = np.arange(12).astype(DTYPES[datatype]).reshape(3, 4)
    swapped = array.astype(array.dtype.newbyteorder(">"))

    for same in (swapped, np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        assert encode_raw(same, datatype) == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        texts(b"gr\xc3\xb6n", b""),
        np.array(["grün".replace("ü", "ö"), ""]),
        np.array(["grön", ""], dtype=object),
        np.array([b"gr\xc3\xb6n", b""]),
    ],
    ids=["bytes objects", "U", "str objects", "S"],
)
def test_text_of_any_dtype_is_utf8(array: NDArray[Any]) -> None:
    assert encode_raw(array, "BYTES") == raw_bytes(texts("grön".encode(), b""))


def test_decoded_numbers_are_a_view() -> None:
    raw = bytes(8)

    decoded = decode_raw("input 'x'", raw, "FP32", (2,))

    assert not decoded.flags.writeable
    assert np.shares_memory(decoded, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_numbers_of_any_other_length_are_refused(datatype: str) -> None:
    raw = np.arange(6).astype(DTYPES[datatype]).tobytes()

    for length in [*range(len(raw)), *range(len(raw) + 1, 2 * len(raw) + 1)]:
        with pytest.raises(TensorError, match=f"expected {len(raw)} raw bytes .*got {length}"):
            decode_raw("input 'x'", (raw * 2)[:length], datatype, (2, 3))


TEXT = raw_bytes(texts(b"one", b"", b"three"))


@pytest.mark.parametrize("length", range(len(TEXT)))
def test_text_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(TensorError, match="expected 3 BYTES elements"):
        decode_raw("input 'x'", TEXT[:length], "BYTES", (3,))


@pytest.mark.parametrize("more", [b"\0", bytes(3), bytes(4), b"\1\0\0\0x", b"\xff" * 9])
def test_text_with_more_behind_is_refused(more: bytes) -> None:
    with pytest.raises(TensorError, match="expected 3 BYTES elements"):
        decode_raw("input 'x'", TEXT + more, "BYTES", (3,))


@pytest.mark.parametrize("size", [1, 2, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_length_beyond_the_end_is_refused(size: int) -> None:
    with pytest.raises(TensorError, match=f"element 0 of {size} bytes with 0 left"):
        decode_raw("input 'x'", struct.pack("<I", size), "BYTES", (1,))


@given(st.binary(max_size=40), SHAPES)
def test_any_bytes_are_text_or_a_tensor_error(raw: bytes, shape: tuple[int, ...]) -> None:
    try:
        decoded = decode_raw("input 'x'", raw, "BYTES", shape)
    except TensorError as error:
        assert error.tensor == "input 'x'"  # noqa: PT017 - either outcome is right
    else:
        assert encode_raw(decoded, "BYTES") == raw
        assert decoded.shape == shape


def test_a_shape_far_beyond_the_bytes_allocates_nothing() -> None:
    for datatype in DTYPES:
        with pytest.raises(TensorError):
            decode_raw("input 'x'", b"1234", datatype, (2**31 - 1,))


@pytest.mark.parametrize("datatype", TYPED_FIELDS)
@pytest.mark.parametrize("count", [0, 5, 7, 100])
def test_any_other_number_of_elements_is_refused(datatype: str, count: int) -> None:
    array = np.full(count, b"" if datatype == "BYTES" else 0, DTYPES[datatype])
    field = TYPED_FIELDS[datatype]

    with pytest.raises(TensorError, match=rf"expected 6 elements in {field} .*\[2, 3\].*{count}"):
        decode_typed("input 'x'", typed(array, datatype), datatype, (2, 3))


FIELDS = sorted(set(TYPED_FIELDS.values()))
SAMPLE: dict[str, Any] = {field: [b"x"] if field == "bytes_contents" else [1] for field in FIELDS}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("datatype", TYPED_FIELDS)
def test_the_field_of_another_datatype_is_refused(datatype: str, field: str) -> None:
    right = TYPED_FIELDS[datatype]
    contents = InferTensorContents(**{right: SAMPLE[right]} | {field: SAMPLE[field]})

    if field == right:
        assert decode_typed("input 'x'", contents, datatype, (1,)).shape == (1,)
    else:
        with pytest.raises(TensorError, match=f"data in {right}, got data in {field}"):
            decode_typed("input 'x'", contents, datatype, (1,))


@pytest.mark.parametrize("field", FIELDS)
def test_fp16_is_refused_as_typed(field: str) -> None:
    with pytest.raises(TensorError, match="expected FP16 as raw_input_contents"):
        decode_typed("input 'x'", InferTensorContents(**{field: SAMPLE[field]}), "FP16", (1,))


NARROW = ["INT8", "INT16", "UINT8", "UINT16"]


@given(st.sampled_from(NARROW), st.lists(st.integers(-(2**31), 2**32 - 1), min_size=1, max_size=4))
def test_integers_are_exact_or_refused(datatype: str, values: list[int]) -> None:
    lowest, highest = (0, 2**32 - 1) if datatype[0] == "U" else (-(2**31), 2**31 - 1)
    values = [min(max(value, lowest), highest) for value in values]
    contents = InferTensorContents()
    getattr(contents, TYPED_FIELDS[datatype]).extend(values)
    info: Any = np.iinfo(DTYPES[datatype].name)

    if all(info.min <= value <= info.max for value in values):
        decoded = decode_typed("input 'x'", contents, datatype, (len(values),))
        assert decoded.dtype == DTYPES[datatype]
        assert decoded.tolist() == values
    else:
        with pytest.raises(TensorError, match=rf"{datatype} values in {info.min}\.\.{info.max}"):
            decode_typed("input 'x'", contents, datatype, (len(values),))
