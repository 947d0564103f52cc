"""Messages in parts, without protobuf: what is parted is what protobuf reads."""

import random

from hypothesis import given
from hypothesis import strategies as st
from support.served import GOOD

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.rpc.wire import join, length_delimited, split

NAMES = st.text(max_size=4)
TENSORS = st.lists(st.binary(max_size=300), max_size=3)
IDS = st.one_of(NAMES, st.integers(0, 20_000).map(lambda size: "i" * size))
INPUTS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=NAMES,
    datatype=st.sampled_from(["FP32", "BYTES"]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
)
REQUESTS = st.builds(
    pb.ModelInferRequest,
    model_name=NAMES,
    model_version=NAMES,
    id=IDS,
    inputs=st.lists(INPUTS, max_size=3),
    raw_input_contents=TENSORS,
)


def assert_parted_as_protobuf_reads(message: bytes) -> None:
    parts = split(message)
    if parts is None:
        return
    request = pb.ModelInferRequest.FromString(message)
    assert parts.tensors == list(request.raw_input_contents)
    assert parts.id_field == pb.ModelInferRequest(id=request.id).SerializeToString()
    request.ClearField("id")
    request.ClearField("raw_input_contents")
    assert pb.ModelInferRequest.FromString(parts.head) == request


@given(REQUESTS)
def test_a_request_is_parted_as_protobuf_reads_it(request: pb.ModelInferRequest) -> None:
    message = request.SerializeToString()

    assert_parted_as_protobuf_reads(message)
    # The common form is worth nothing if common requests do not have it.
    if request.raw_input_contents and request.id.isascii() and 0 < len(request.id) < 128:
        assert split(message) is not None


@given(REQUESTS, REQUESTS)
def test_requests_of_one_head_differ_in_id_and_tensors_alone(
    one: pb.ModelInferRequest, other: pb.ModelInferRequest
) -> None:
    changed = pb.ModelInferRequest()
    changed.CopyFrom(one)
    changed.id = other.id
    changed.raw_input_contents[:] = other.raw_input_contents
    parts = [split(message.SerializeToString()) for message in (one, other, changed)]

    if parts[0] is not None and parts[2] is not None:
        assert parts[0].head == parts[2].head
    if parts[0] is not None and parts[1] is not None and parts[0].head == parts[1].head:
        assert changed == other


def test_a_mutated_request_is_left_to_protobuf_or_parted_as_it_reads() -> None:
    generator = random.Random(0)
    request = GOOD["pair"].request()
    request.id = "42"
    message = request.SerializeToString()
    parted = 0
    for _ in range(3000):
        mutated = bytearray(message)
        for _ in range(generator.randint(1, 2)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        try:
            pb.ModelInferRequest.FromString(bytes(mutated))
        except Exception:
            # Not even validated: its head is never one that was.
            continue
        assert_parted_as_protobuf_reads(bytes(mutated))
        parted += split(bytes(mutated)) is not None
    assert parted > 100


def test_a_request_cut_anywhere_is_not_parted_into_fewer_bytes() -> None:
    message = GOOD["pair"].request().SerializeToString()

    for end in range(len(message)):
        parts = split(message[:end])
        if parts is not None:
            assert_parted_as_protobuf_reads(message[:end])


@given(IDS, TENSORS)
def test_a_reply_is_joined_as_protobuf_writes_it(identifier: str, tensors: list[bytes]) -> None:
    reply = pb.ModelInferResponse(
        model_name="m", model_version="1", id=identifier, raw_output_contents=tensors
    )
    reply.outputs.add(name="y", datatype="FP32", shape=[2, -1])

    joined = join(
        pb.ModelInferResponse(model_name="m", model_version="1").SerializeToString(),
        pb.ModelInferResponse(id=identifier).SerializeToString(),
        pb.ModelInferResponse(outputs=reply.outputs).SerializeToString(),
        tensors,
    )

    assert joined == reply.SerializeToString()


@given(IDS, TENSORS)
def test_a_message_is_wrapped_as_protobuf_wraps_it(call_id: str, tensors: list[bytes]) -> None:
    start = pb.ModelInferResponse(id=call_id).SerializeToString()
    end = pb.ModelInferResponse(raw_output_contents=tensors).SerializeToString()
    reply = pb.ModelInferResponse(id=call_id, raw_output_contents=tensors)

    expected = pb.ModelStreamInferResponse(infer_response=reply).SerializeToString()

    assert length_delimited(2, start, end) == expected
