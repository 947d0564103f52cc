"""Calls that are bad before or beside their tensors: any RPC, any bytes, any size."""

import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.rpc import REPLIES, Refusal, Stub
from support.served import GOOD, assert_answered

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

pytestmark = pytest.mark.usefixtures("transport")

Code = grpc.StatusCode

MALFORMED = {
    "random text": b"GET / HTTP/1.1\r\n\r\n",
    "a length beyond the end": b"\x0a\x20abc",
    "a key cut short": b"\x0a",
    "a varint without end": b"\x08" + b"\xff" * 11,
    "a group that never ends": b"\x0b",
    "wire type 7": b"\x0f",
}


@pytest.mark.parametrize("method", REPLIES)
@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_bytes_that_are_no_message_are_invalid(stub: Stub, method: str, payload: bytes) -> None:
    refusal = stub.refusal(method, payload)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {f"{method}Request"}
    assert f"{method}Request" in refusal.message
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelInfer"])
def test_a_name_that_is_not_utf8_is_invalid(stub: Stub, method: str) -> None:
    refusal = stub.refusal(method, b"\x0a\x02\xff\xfe")

    assert refusal.code is Code.INVALID_ARGUMENT
    assert f"{method}Request" in refusal.message
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelInfer"])
def test_an_empty_message_asks_for_a_model_of_no_name(stub: Stub, method: str) -> None:
    refusal = stub.refusal(method, b"")

    assert refusal.code is Code.NOT_FOUND
    assert refusal.message.startswith("Request for unknown model: '' is not found")
    assert_answered(stub, GOOD["linear"])


VERSIONED = [
    ("nothing", "", Code.NOT_FOUND, "available: "),
    ("nothing", "1", Code.NOT_FOUND, "'nothing'"),
    ("../linear", "1", Code.NOT_FOUND, "'../linear'"),
    ("n" * 60_000, "1", Code.NOT_FOUND, "nnn"),
    ("n" * 66_000, "1", Code.RESOURCE_EXHAUSTED, "above 65536"),
    ("linear", "2", Code.NOT_FOUND, "available: 1"),
    ("linear", "9" * 18, Code.NOT_FOUND, "available: 1"),
    ("linear", "abc", Code.INVALID_ARGUMENT, "'abc'"),
    ("linear", "-1", Code.INVALID_ARGUMENT, "'-1'"),
    ("linear", "9" * 60_000, Code.INVALID_ARGUMENT, "999"),
    ("garbage", "", Code.FAILED_PRECONDITION, "do not parse"),
    ("garbage", "1", Code.FAILED_PRECONDITION, "do not parse"),
    ("partly_broken", "2", Code.FAILED_PRECONDITION, "'partly_broken' version 2"),
    ("sequence", "", Code.FAILED_PRECONDITION, "'probabilities'"),
]


@pytest.mark.parametrize(("name", "version", "code", "says"), VERSIONED)
def test_metadata_of_what_is_not_there(
    stub: Stub, name: str, version: str, code: grpc.StatusCode, says: str
) -> None:
    refusal = stub.refusal("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version))

    assert refusal.code is code
    assert says in refusal.message
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("version", ["abc", "-1", "1.0", "9" * 60_000])
def test_readiness_of_a_version_that_is_no_number_is_invalid(stub: Stub, version: str) -> None:
    refusal = stub.refusal("ModelReady", pb.ModelReadyRequest(name="linear", version=version))

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"model_version"}
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("method", ["Nothing", "modelinfer", "ModelInfer/", "Model Infer", "a/b"])
def test_an_unknown_rpc_is_unimplemented(stub: Stub, method: str) -> None:
    assert stub.refusal(method, b"").code is Code.UNIMPLEMENTED
    assert_answered(stub, GOOD["linear"])


def test_a_mutated_request_is_answered_or_refused_and_never_fails_inside(stub: Stub) -> None:
    expected = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED}
    generator = random.Random(0)
    seeds = [GOOD[name].request().SerializeToString() for name in ("linear", "pair typed", "text")]
    for _ in range(600):
        mutated = bytearray(generator.choice(seeds))
        for _ in range(generator.randint(1, 4)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        if generator.random() < 0.3:
            del mutated[generator.randrange(len(mutated)) :]
        assert stub.outcome("ModelInfer", bytes(mutated)) in expected, bytes(mutated)
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("method", REPLIES)
def test_random_bytes_never_fail_inside(stub: Stub, method: str) -> None:
    expected = {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.PERMISSION_DENIED,
        Code.UNIMPLEMENTED,
    }
    generator = random.Random(1)
    for length in (1, 2, 3, 5, 8, 40, 400) * 5:
        payload = generator.randbytes(length)
        assert stub.outcome(method, payload) in expected, payload
    assert_answered(stub, GOOD["linear"])


LIMIT = 4096


@pytest.fixture(scope="module")
def small(repository: Path, transport: Transport) -> Iterator[Stub]:
    """A server that takes messages of up to LIMIT bytes."""
    models = repository / "linear" / "1" / "model.onnx"
    config = Config(models=models, port=0, max_message_bytes=LIMIT)
    with Server(config) as server, Stub(server.port) as stub:
        yield stub


def padded(size: int) -> bytes:
    """A good request for `model` of exactly this size, by the length of its id."""
    request = GOOD["linear"].request()
    request.model_name = "model"
    request.id = "i" * (size - request.ByteSize() - 3)
    message = request.SerializeToString()
    assert len(message) == size
    return message


def assert_above_the_limit(refusal: Refusal, size: int) -> None:
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    for fragment in (str(size), str(LIMIT), "--max-message-bytes"):
        assert fragment in refusal.message


def test_a_message_at_the_limit_is_answered(small: Stub) -> None:
    assert len(small.infer(padded(LIMIT)).id) > LIMIT / 2


def test_a_message_above_the_limit_names_limit_and_flag(small: Stub) -> None:
    assert_above_the_limit(small.refusal("ModelInfer", padded(LIMIT + 1)), LIMIT + 1)
    small.infer(padded(LIMIT))


def test_the_limit_holds_for_every_rpc(small: Stub) -> None:
    request = pb.ModelMetadataRequest(name="n" * LIMIT)

    refusal = small.refusal("ModelMetadata", request)

    assert_above_the_limit(refusal, request.ByteSize())


def test_a_message_far_above_the_limit_is_cut_off(small: Stub) -> None:
    assert small.refusal("ModelInfer", padded(3 * LIMIT)).code is Code.RESOURCE_EXHAUSTED
    small.infer(padded(LIMIT))


def test_the_limit_is_on_what_a_compressed_message_unpacks_to(small: Stub) -> None:
    for size in (LIMIT + 1, 3 * LIMIT):
        refusal = small.refusal("ModelInfer", padded(size), compression=grpc.Compression.Gzip)
        assert refusal.code is Code.RESOURCE_EXHAUSTED
    small.infer(padded(LIMIT), compression=grpc.Compression.Gzip)


def test_the_limit_is_64_mib_by_default(stub: Stub) -> None:
    request = GOOD["linear"].request()
    request.raw_input_contents[0] = bytes(64 * 2**20)

    refusal = stub.refusal("ModelInfer", request)

    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert str(64 * 2**20) in refusal.message
    assert_answered(stub, GOOD["linear"])
