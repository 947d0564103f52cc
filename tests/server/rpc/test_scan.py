"""What is read of a request without protobuf is what protobuf reads, and has a limit."""

import random
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from support.messages import field, typed, varint
from support.served import GOOD
from support.wire import DTYPES, TYPED_FIELDS, assert_same_bits, texts

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorError
from forwardpass.proto.tensors import decode_typed
from forwardpass.server.errors import InvalidRequestError
from forwardpass.server.rpc import budget, contents
from forwardpass.server.rpc.budget import PER_BYTE, SPARE_BYTES, Budget
from forwardpass.server.rpc.scan import Most, TypedContents, names, scan

MOST = Most.of(())
PLENTY = Budget(2**30)
NUMBERS = {
    datatype: st.integers(np.iinfo(dtype.name).min, np.iinfo(dtype.name).max)
    for datatype, dtype in DTYPES.items()
    if dtype.kind in "iu"
} | {
    "BOOL": st.booleans(),
    "FP32": st.floats(width=32),
    "FP64": st.floats(),
    "BYTES": st.binary(max_size=4),
}
VARINTS = {"bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents"}


def read(message: bytes) -> pb.ModelInferRequest:
    """What was scanned, put together again."""
    scanned = scan(message, MOST)
    request = pb.ModelInferRequest()
    request.CopyFrom(scanned.request)
    request.id = pb.ModelInferResponse.FromString(scanned.id_field).id
    request.raw_input_contents[:] = map(bytes, scanned.raw)
    for tensor, typed_contents in zip(request.inputs, scanned.contents, strict=True):
        for name, data in typed_contents.numbers.items():
            number = pb.InferTensorContents.DESCRIPTOR.fields_by_name[name].number
            tensor.contents.MergeFromString(field(number, bytes(data)))
        for elements in typed_contents.texts.values():
            tensor.contents.bytes_contents.extend(elements)
    return request


PARAMETERS = st.dictionaries(
    st.text(max_size=3), st.builds(pb.InferParameter, int64_param=st.integers(-9, 9)), max_size=3
)
INPUTS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.text(max_size=4),
    datatype=st.sampled_from(["FP32", "BYTES"]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    parameters=PARAMETERS,
    contents=st.one_of(
        st.none(),
        st.builds(
            pb.InferTensorContents,
            int_contents=st.lists(NUMBERS["INT32"], max_size=3),
            fp64_contents=st.lists(st.floats(allow_nan=False), max_size=3),
            bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
        ),
    ),
)
REQUESTS = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(max_size=4),
    model_version=st.text(max_size=4),
    id=st.text(max_size=300),
    parameters=PARAMETERS,
    inputs=st.lists(INPUTS, max_size=3),
    outputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferRequestedOutputTensor,
            name=st.text(max_size=4),
            parameters=PARAMETERS,
        ),
        max_size=3,
    ),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=3),
)


@given(REQUESTS)
def test_a_request_is_read_as_protobuf_reads_it(request: pb.ModelInferRequest) -> None:
    message = request.SerializeToString()

    assert read(message) == request
    assert read(memoryview(message)) == request  # type: ignore[arg-type]
    assert names(message)[0] == request.model_name
    assert names(message)[1] == pb.ModelInferResponse(id=request.id).SerializeToString()


def test_a_mutated_request_is_read_as_protobuf_reads_it() -> None:
    generator = random.Random(0)
    seeds = [GOOD[name].request() for name in ("pair", "pair typed", "text typed", "INT8 typed")]
    seeds[0].outputs.add(name="total").parameters["classification"].int64_param = 1
    refused = 0
    for _ in range(4000):
        seed = generator.choice(seeds)
        seed.id = "42"
        mutated = bytearray(seed.SerializeToString())
        for _ in range(generator.randint(1, 3)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        message = bytes(mutated)
        try:
            expected = pb.ModelInferRequest.FromString(message)
        except (DecodeError, UnicodeDecodeError):
            expected = None
        try:
            got = read(message)
        except (DecodeError, InvalidRequestError):
            # Contents of numbers are read only where they are of use.
            refused += 1
            assert expected is None, message
            continue
        assert expected is not None, message
        # Unknown fields differ in their place.
        assert without_unknown(got) == without_unknown(expected), message
    assert 100 < refused < 3900


def without_unknown(request: pb.ModelInferRequest) -> bytes:
    copy = pb.ModelInferRequest()
    copy.CopyFrom(request)
    copy.DiscardUnknownFields()
    return copy.SerializeToString(deterministic=True)


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_typed_contents_are_read_as_protobuf_reads_them(datatype: str, data: Any) -> None:
    values = data.draw(st.lists(NUMBERS[datatype], max_size=20))
    packed = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    name = TYPED_FIELDS[datatype]
    encoded = typed(name, values, packed)
    expected = decode_typed(
        "x", pb.InferTensorContents.FromString(encoded), datatype, (len(values),)
    )
    message = field(5, field(5, encoded))
    (scanned,) = scan(message, MOST).contents

    got = contents.decode("x", scanned, datatype, (len(values),), PLENTY)

    assert_same_bits(got, expected)


@pytest.mark.parametrize("datatype", ["INT8", "UINT16", "INT64", "UINT64", "BOOL"])
def test_many_varints_are_read_step_by_step(datatype: str) -> None:
    generator = np.random.default_rng(0)
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        expected = generator.integers(0, 2, 100_000).astype(dtype)
    else:
        info = np.iinfo(dtype.name)
        expected = generator.integers(info.min, info.max, 100_000, dtype, endpoint=True)
        # Short ones and long ones beside one another.
        expected >>= generator.integers(0, 8 * dtype.itemsize, 100_000).astype(dtype)
    name = TYPED_FIELDS[datatype]
    request = pb.ModelInferRequest()
    getattr(request.inputs.add().contents, name).extend(expected.tolist())
    (scanned,) = scan(request.SerializeToString(), MOST).contents

    got = contents.decode("x", scanned, datatype, expected.shape, PLENTY)

    assert_same_bits(got, expected)


@pytest.mark.parametrize("name", sorted(VARINTS))
@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff", b"\xff" * 11 + b"\x01"])
def test_numbers_that_do_not_end_are_invalid(name: str, data: bytes) -> None:
    datatype = next(each for each, known in TYPED_FIELDS.items() if known == name)

    with pytest.raises(InvalidRequestError, match="do not parse"):
        contents.decode("x", TypedContents({name: data}, {}), datatype, (1,), PLENTY)


@pytest.mark.parametrize(("name", "size"), [("fp32_contents", 5), ("fp64_contents", 12)])
def test_numbers_cut_short_are_invalid(name: str, size: int) -> None:
    datatype = "FP32" if size == 5 else "FP64"

    with pytest.raises(InvalidRequestError, match="do not parse"):
        contents.decode("x", TypedContents({name: bytes(size)}, {}), datatype, (1,), PLENTY)


@pytest.mark.parametrize(("value", "datatype"), [(300, "UINT8"), (-129, "INT8"), (2**16, "UINT16")])
def test_a_number_out_of_range_is_named_wherever_it_is(value: int, datatype: str) -> None:
    # Behind the first step.
    data = bytes(40_000) + varint(value % 2**64)

    with pytest.raises(TensorError, match=str(value)):
        contents.decode(
            "x", TypedContents({TYPED_FIELDS[datatype]: data}, {}), datatype, (40_001,), PLENTY
        )


def test_elements_are_refused_above_the_memory_that_the_request_may_take() -> None:
    def ints(count: int) -> bytes:
        return field(5, field(5, field(3, bytes(count))))

    # Each takes 8 bytes of memory, and 1 of a message that may take 4.
    most = SPARE_BYTES // (8 - (PER_BYTE - 2))
    for count, fits in ((most - 100, True), (most + 100, False)):
        scanned = scan(ints(count), MOST)
        if fits:
            decoded = contents.decode("x", scanned.contents[0], "INT64", (count,), scanned.budget)
            assert len(decoded) == count
        else:
            with pytest.raises(
                InvalidRequestError, match=rf"at most 4 bytes .*got {count} elements"
            ):
                contents.decode("x", scanned.contents[0], "INT64", (count,), scanned.budget)


def test_texts_are_taken_as_they_are_and_only_so_many() -> None:
    array = texts(b"one", b"", b"\xff" * 300)
    request = pb.ModelInferRequest()
    request.inputs.add().contents.bytes_contents.extend(array.tolist())
    (scanned,) = scan(request.SerializeToString(), MOST).contents
    assert_same_bits(contents.decode("x", scanned, "BYTES", (3,), PLENTY), array)


@pytest.mark.no_cover  # Measured line by line it takes four times as long.
def test_equal_short_texts_are_one_object_and_take_less() -> None:
    def counted(elements: list[bytes]) -> list[bytes]:
        request = pb.ModelInferRequest()
        request.inputs.add().contents.bytes_contents.extend(elements)
        (scanned,) = scan(request.SerializeToString(), MOST).contents
        return scanned.texts["bytes_contents"]

    few, many = 300_000, 140_000
    assert len({id(element) for element in counted([b"male", b"female"] * (few // 2))}) == 2
    assert len(counted([b"%06d" % number for number in range(many)])) == many
    for elements in ([b""] * 700_000, [b"%06d" % number for number in range(2 * many)]):
        with pytest.raises(
            InvalidRequestError, match=r"contents.bytes_contents: .*at most 4 bytes"
        ):
            counted(elements)


def test_texts_that_are_long_enough_are_refused_above_their_maximum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "MAX_TEXTS", 10)
    request = pb.ModelInferRequest()
    request.inputs.add().contents.bytes_contents.extend([b"long enough to take little"] * 10)
    scan(request.SerializeToString(), MOST)
    request.inputs.add().contents.bytes_contents.append(b"another one")
    with pytest.raises(InvalidRequestError, match=r"inputs\[1\].*at most 10 texts.*got 11 or more"):
        scan(request.SerializeToString(), MOST)
    with pytest.raises(
        InvalidRequestError, match=r"'x': expected at most 10 texts.*got 11 or more"
    ):
        Budget(1000).take_texts("input 'x'", 11)


@pytest.mark.parametrize(("character", "copies"), [("x", 3), ("é", 6)])
def test_long_texts_count_as_what_is_made_of_them(character: str, copies: int) -> None:
    element = (character * 2**19).encode()
    most = (SPARE_BYTES - 2**12) // ((copies - PER_BYTE + 2) * len(element))
    counted = Budget(most * len(element))
    for _ in range(most):
        counted.text(element)
    with pytest.raises(InvalidRequestError, match="texts that take more"):
        sum(len(counted.text(element)) for _ in range(most))
