import contextlib
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from forwardpass.client import (
    InvalidInputError,
    ModelSpec,
    Prediction,
    ProtocolError,
)
from forwardpass.client._messages.codec import _LAYOUTS, MAX_MESSAGE_BYTES, ModelCodec, Request
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.datatypes import DATATYPES, datatype_of
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.tensors import decode_raw, encode_raw

X = TensorSpec("x", "FP32", (-1, 3))
Y = TensorSpec("y", "FP32", (-1, 2))
TOTAL = TensorSpec("total", "FP32", (-1,))
BATCH = Request(b"", (), single_row=False)
ROW = Request(b"", (), single_row=True)


def codec(inputs=(X,), outputs=(Y, TOTAL), version=""):
    spec = ModelSpec(
        name="m", versions=("1",), platform="p", inputs=inputs, outputs=outputs, properties={}
    )
    return ModelCodec(spec, "m", version, "host:1")


def encode(model, x, outputs=None):
    return model.write(model.read(x), outputs)


def names(prediction):
    return list(prediction)


@st.composite
def tensors(draw, datatypes=tuple(DATATYPES)):
    """An array of any shape, with the wire name of its dtype."""
    datatype = DATATYPES[draw(st.sampled_from(datatypes))]
    shape = draw(st.just(()) | array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
    if datatype.name == "BYTES":
        array = np.empty(shape, dtype=object)
        array.ravel()[:] = draw(
            st.lists(st.binary(max_size=5), min_size=array.size, max_size=array.size)
        )
        return datatype.name, array
    return datatype.name, draw(arrays(datatype.dtype, shape))


def spec_of(name, datatype, array):
    return TensorSpec(name, datatype, array.shape)


# Requests


def test_a_request_is_these_bytes() -> None:
    request = encode(codec(version="7"), np.array([[1, 2, 3]], np.float32), ["total"])
    assert request.data == (
        b"\x0a\x01m"  # 1 model_name
        b"\x12\x017"  # 2 model_version
        b"\x2a\x0d\x0a\x01x\x12\x04FP32\x1a\x02\x01\x03"  # 5 inputs: name, datatype, shape
        b"\x32\x07\x0a\x05total"  # 6 outputs: name
        b"\x3a\x0c\0\0\x80?\0\0\0@\0\0@@"  # 7 raw_input_contents
    )
    assert request.outputs == ("total",)
    assert not request.single_row


@given(st.lists(tensors(), max_size=3))
@settings(deadline=None)
def test_a_request_holds_the_arrays_that_were_given(given_) -> None:
    specs = tuple(spec_of(f"i{n}", *tensor) for n, tensor in enumerate(given_))
    inputs = {spec.name: array for spec, (_, array) in zip(specs, given_, strict=True)}
    message = pb.ModelInferRequest.FromString(encode(codec(inputs=specs), inputs).data)
    assert len(message.raw_input_contents) == len(message.inputs) == len(given_)
    for tensor, raw, (datatype, array) in zip(
        message.inputs, message.raw_input_contents, given_, strict=True
    ):
        assert tensor.datatype == datatype
        sent = decode_raw(tensor.name, raw, tensor.datatype, tuple(tensor.shape))
        np.testing.assert_array_equal(sent, array)


def test_large_arrays_have_their_length_before_them() -> None:
    x = np.arange(300_000, dtype=np.float32).reshape(-1, 3)
    message = pb.ModelInferRequest.FromString(encode(codec(), x).data)
    assert message.raw_input_contents[0] == x.tobytes()


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3)),
        np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        np.arange(12, dtype=">f4").reshape(4, 3),
        np.broadcast_to(np.array([1, 2, 3], np.float32), (4, 3)),
    ],
    ids=["column-major", "strided", "big-endian", "broadcast"],
)
def test_memory_layout_and_byte_order_do_not_show(x) -> None:
    message = pb.ModelInferRequest.FromString(encode(codec(), x).data)
    assert message.raw_input_contents[0] == np.ascontiguousarray(x, "<f4").tobytes()


@pytest.mark.parametrize(
    ("x", "outputs", "text"),
    [
        (
            np.zeros((2, 4)),
            None,
            "input 'x': expected shape [-1, 3], got [2, 4]; axis 1 must be 3 long, not 4",
        ),
        (
            np.zeros((1, 1, 3)),
            None,
            "input 'x': expected shape [-1, 3] (rank 2), got [1, 1, 3] (rank 3); send 2 dimensions",
        ),
        (
            np.zeros(4),
            None,
            "input 'x': expected shape [-1, 3], got [1, 4]; axis 1 must be 3 long, not 4",
        ),
        (np.zeros((1, 3), complex), None, "input 'x': expected datatype FP32, got complex128"),
        ({"z": [1]}, None, "input 'z': expected one of 'x', got 'z'; use the names of Model"),
        ([1, 2, 3], ["z"], "output 'z': expected one of 'y', 'total', got 'z'"),
        ([1, 2, 3], ["y", "y"], "output 'y': expected it once, got it twice"),
        ([1, 2, 3], [], "outputs: expected a list with at least one name, got []"),
        ([1, 2, 3], "y", "outputs: expected a list with at least one name, got 'y'"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(x, outputs, text) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode(codec(), x, outputs)
    assert str(caught.value).startswith(f"host:1: model 'm', {text}")
    assert caught.value.code is None


def test_more_than_a_message_holds_is_refused_before_it_is_written() -> None:
    x = np.broadcast_to(np.float32(0), (MAX_MESSAGE_BYTES // 12 + 1, 3))
    with pytest.raises(InvalidInputError, match="expected at most 2147483647 bytes"):
        encode(codec(), x)


def test_text_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="surrogates not allowed"):
        encode(codec(inputs=(TensorSpec("x", "BYTES", (-1,)),)), ["\ud800"])


def test_undeclared_inputs_and_outputs_are_sent_as_they_are() -> None:
    request = encode(codec(inputs=(), outputs=()), {"a": np.array([1], np.int8)}, ["b"])
    message = pb.ModelInferRequest.FromString(request.data)
    assert (message.inputs[0].name, message.inputs[0].datatype) == ("a", "INT8")
    assert message.outputs[0].name == "b"


# Replies


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans())
@settings(deadline=None)
def test_raw_and_typed_replies_give_the_arrays(reply: Callable[..., bytes], given_, typed) -> None:
    if any(datatype == "FP16" for datatype, _ in given_):
        typed = False
    outputs = {f"o{n}": array for n, (_, array) in enumerate(given_)}
    specs = tuple(spec_of(f"o{n}", *tensor) for n, tensor in enumerate(given_))
    data = reply(outputs, typed=typed, model_name="m", model_version="2", id="9")
    prediction = codec(outputs=specs).decode(data, BATCH)
    assert (prediction.model, prediction.version, prediction.id) == ("m", "2", "9")
    assert names(prediction) == list(outputs)
    for name, array in outputs.items():
        assert prediction[name].dtype == array.dtype
        assert not prediction[name].flags.writeable
        np.testing.assert_array_equal(prediction[name], array)


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans(), st.data())
@settings(deadline=None, max_examples=300)
def test_a_cut_reply_is_refused_or_lacks_nothing(
    reply: Callable[..., bytes], given_, typed, data
) -> None:
    if any(datatype == "FP16" for datatype, _ in given_):
        typed = False
    outputs = {f"o{n}": array for n, (_, array) in enumerate(given_)}
    specs = tuple(spec_of(f"o{n}", *tensor) for n, tensor in enumerate(given_))
    whole = reply(outputs, typed=typed)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        prediction = codec(outputs=specs).decode(cut, BATCH)
    except ProtocolError:
        return
    # The fields of an array without elements may be missing without a loss.
    assert prediction == Prediction(outputs, "", "")


@given(st.binary(max_size=60), st.booleans())
@settings(deadline=None, max_examples=500)
def test_bytes_of_any_kind_are_a_prediction_or_a_protocol_error(data, single_row) -> None:
    with contextlib.suppress(ProtocolError):
        codec(outputs=()).decode(data, Request(b"", (), single_row))


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-4, 4), max_size=5),
    st.binary(max_size=16),
    st.sampled_from(["FP32", "BYTES", "BOOL", "BF16", ""]),
)
@settings(deadline=None, max_examples=500)
def test_shapes_of_any_kind_are_a_prediction_or_a_protocol_error(shape, raw, datatype) -> None:
    message = pb.ModelInferResponse(raw_output_contents=[raw])
    message.outputs.add(name="y", datatype=datatype, shape=shape)
    try:
        prediction = codec(outputs=()).decode(message.SerializeToString(), BATCH)
    except ProtocolError:
        return
    assert prediction["y"].shape == tuple(shape)


@given(st.lists(tensors(), min_size=1, max_size=3), st.data())
@settings(deadline=None, max_examples=300)
def test_a_reply_is_read_alike_whatever_was_read_before(
    reply: Callable[..., bytes], given_, data
) -> None:
    outputs = {f"o{n}": array for n, (_, array) in enumerate(given_)}
    specs = tuple(spec_of(f"o{n}", *tensor) for n, tensor in enumerate(given_))
    first = bytearray(reply(outputs, model_name="m"))
    used, fresh = codec(outputs=specs), codec(outputs=specs)
    used.decode(bytes(first), BATCH)
    position = data.draw(st.integers(0, len(first) - 1))
    first[position] = data.draw(st.integers(0, 255))
    second = bytes(first)

    def outcome(reader):
        try:
            prediction = reader.decode(second, BATCH)
        except ProtocolError as error:
            return str(error)
        return repr(prediction), [
            (name, array.dtype, array.shape, encode_raw(array, datatype_of(array.dtype).name))
            for name, array in prediction.items()
        ]

    assert outcome(used) == outcome(fresh)


def test_replies_of_one_form_keep_their_own_data(reply: Callable[..., bytes]) -> None:
    reader = codec()
    for value in range(4):
        outputs = {"y": np.array([[value, 1]], np.float32), "total": np.array([value], np.float32)}
        prediction = reader.decode(reply(outputs, model_name="m", model_version="2"), BATCH)
        assert prediction == Prediction(outputs, "m", "2")
        assert prediction["y"].flags.aligned
        assert not prediction["y"].flags.writeable
    assert len(reader._layouts) == 1


def test_the_layouts_kept_are_bounded(reply: Callable[..., bytes]) -> None:
    reader = codec(outputs=(Y,))
    for rows in range(2 * _LAYOUTS):
        reader.decode(reply({"y": np.zeros((rows, 2), np.float32)}), BATCH)
    assert len(reader._layouts) <= _LAYOUTS


def test_outputs_come_in_the_model_order_and_unknown_ones_last(reply: Callable[..., bytes]) -> None:
    outputs = {"extra": np.zeros(1), "total": np.zeros(1), "y": np.zeros((1, 2))}
    assert names(codec().decode(reply(outputs), BATCH)) == ["y", "total", "extra"]


def test_outputs_come_in_the_order_asked_and_no_others(reply: Callable[..., bytes]) -> None:
    outputs = {"y": np.zeros((1, 2)), "total": np.zeros(1), "extra": np.zeros(1)}
    request = Request(b"", ("total", "y"), single_row=False)
    assert names(codec().decode(reply(outputs), request)) == ["total", "y"]


def test_outputs_for_a_single_row_lose_their_row_axis(reply: Callable[..., bytes]) -> None:
    fixed = TensorSpec("fixed", "FP32", (5,))
    text = TensorSpec("text", "BYTES", (-1,))
    outputs = {
        "y": np.array([[1, 2]], np.float32),
        "total": np.array([3], np.float32),
        "fixed": np.zeros(5, np.float32),
        "text": np.array([b"a"], object),
        "extra": np.zeros((1, 4)),
        "scalar": np.zeros(()),
    }
    prediction = codec(outputs=(Y, TOTAL, fixed, text)).decode(reply(outputs), ROW)
    shapes = [array.shape for array in prediction.values()]
    assert shapes == [(2,), (), (5,), (), (4,), ()]
    assert prediction["y"].tolist() == [1, 2]
    assert prediction["text"].item() == b"a"


def test_several_rows_for_one_are_refused(reply: Callable[..., bytes]) -> None:
    outputs = {"y": np.zeros((3, 2)), "total": np.zeros(1)}
    with pytest.raises(
        ProtocolError, match=re.escape("output 'y': expected one row for the one sent, got shape")
    ):
        codec().decode(reply(outputs), ROW)


def faulty(**outputs):
    """Write a reply with an output y that differs from a good one as told."""
    fields = {"name": "y", "datatype": "FP32", "shape": [1, 2]} | outputs
    message = pb.ModelInferResponse(raw_output_contents=[bytes(8)])
    message.outputs.add(**fields)
    return message


def twice():
    message = faulty()
    message.outputs.append(message.outputs[0])
    message.raw_output_contents.append(bytes(8))
    return message


def surplus():
    message = faulty()
    message.raw_output_contents.append(b"")
    return message


def without_data():
    message = faulty()
    del message.raw_output_contents[:]
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.ModelInferResponse(), "output 'y': expected it in the reply, got no output"),
        (faulty(name="z"), "output 'y': expected it in the reply, got 'z'"),
        (faulty(shape=[1, 3]), "output 'y': expected 12 raw bytes"),
        (faulty(shape=[-1, -2]), "output 'y': expected it once, with a shape and one of"),
        (faulty(datatype="BF16"), "got 'BF16' [1, 2]; this is a fault of the server"),
        (twice(), "got 'FP32' [1, 2] again"),
        (surplus(), "raw_output_contents: expected 1 entries, one for each output, got 2"),
        (without_data(), "output 'y': expected 2 elements in fp32_contents"),
    ],
)
def test_a_reply_that_is_not_whole_is_refused(message, text) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec(outputs=(Y,)).decode(message.SerializeToString(), BATCH)
    assert str(caught.value).startswith("host:1: model 'm': ")
    assert text in str(caught.value)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(ProtocolError, match="expected a ModelInferResponse, got 3 bytes that are"):
        codec().decode(b"\xff\xff\xff", BATCH)
