"""Both transports answer every call alike: code, message, details, trailers, tensors."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from server.rpc.test_request_fuzz import mutated
from support.rpc import REPLIES, SERVICE, Stub
from support.served import GOOD, assert_answered

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.timing import TRAILER
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits
from forwardpass.server.observe.origin import REQUEST_ID

MAX_BYTES = 2**16
OFTEN = ("ModelInfer",) * 4
RPCS = [name for name in REPLIES if name not in ("RepositoryModelLoad", "RepositoryModelUnload")]
STATES = ("ModelStatistics", "ModelConfig")
"""What tells of the server and its past, of which there are two: replies are not compared."""
GRPCIO_SAYS = (
    "Method not found!",
    "SERVER: Received message larger than max",
    "received metadata size exceeds",
)
"""What grpcio answers by itself, in words of its own: codes alone are compared."""


@dataclass(frozen=True)
class Sent:
    """One call, whole."""

    method: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...]
    compression: grpc.Compression
    timeout_s: float

    @property
    def streams(self) -> bool:
        return self.method == "ModelStreamInfer"


@dataclass(frozen=True)
class Seen:
    """What a client can tell of the answer."""

    code: grpc.StatusCode
    message: str
    initial: tuple[tuple[str, Any], ...]
    trailers: tuple[tuple[str, Any], ...]
    replies: tuple[bytes, ...]


def generated(rng: random.Random) -> Sent:
    """A call as a client may make it, good or bad in one or several ways."""
    method = rng.choice((*OFTEN, "ModelStreamInfer", *rng.sample(RPCS, 2)))
    count = rng.choice((0, 1, 1, 2, 5)) if method == "ModelStreamInfer" else 1
    messages = tuple(message(rng, method) for _ in range(count))
    if rng.random() < 0.05:
        method = rng.choice(("Nothing", "modelinfer", "ModelInfer/x", "%2e%2e", "Model Infer"))
        messages = messages or (b"",)
    metadata: list[tuple[str, str | bytes]] = []
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        name = rng.choice(("x-request-id", "authorization", "user", "a", "traceparent"))
        metadata.append((name, rng.choice(("", "1", "a,b", "~" * 200, "Bearer x"))))
    if rng.random() < 0.2:
        metadata.append(("data-bin", rng.randbytes(rng.randrange(40))))
    if rng.random() < 0.02:
        metadata.append(("long", "x" * rng.choice((4_000, 40_000))))
    compression = rng.choice((grpc.Compression.NoCompression,) * 4 + tuple(grpc.Compression))
    return Sent(method, messages, tuple(metadata), compression, rng.choice((20.0, 20.0, 3600.0)))


def message(rng: random.Random, method: str) -> bytes:
    if method in ("ModelInfer", "ModelStreamInfer"):
        match rng.randrange(10):
            case 0 | 1 | 2:
                return GOOD[rng.choice(list(GOOD))].request().SerializeToString()
            case 3:
                request = GOOD["linear"].request()
                # Far above the limit grpcio cuts a stream off, answers that it owes included.
                most = MAX_BYTES if method == "ModelStreamInfer" else MAX_BYTES * 2
                request.id = "i" * rng.choice((MAX_BYTES - 200, MAX_BYTES, most))
                return request.SerializeToString()
            case _:
                return mutated(rng)
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(30))
        case 1:
            return b""
        case _:
            name = rng.choice((*[call.request().model_name for call in GOOD.values()], "none", ""))
            version = rng.choice(("", "1", "2", "x"))
            return pb.ModelMetadataRequest(name=name, version=version).SerializeToString()


def see(stub: Stub, sent: Sent) -> Seen:
    """Make the call; tell all that comes of it."""
    path = f"/{SERVICE}/{sent.method}"
    options: dict[str, Any] = {
        "timeout": sent.timeout_s,
        "metadata": sent.metadata,
        "compression": sent.compression,
    }
    replies: list[bytes] = []
    if sent.streams:
        both: grpc.StreamStreamMultiCallable[bytes, bytes] = stub.channel.stream_stream(path)
        call: Any = both(iter(sent.messages), **options)
    else:
        # As a stream of one, so that an answer and its trailers are seen alike.
        one: grpc.UnaryStreamMultiCallable[bytes, bytes] = stub.channel.unary_stream(path)
        call = one(sent.messages[0], **options)
    # The call itself tells how it ended.
    with suppress(grpc.RpcError):
        replies.extend(call)
    said = "" if call.details().startswith(GRPCIO_SAYS) else call.details()
    if sent.compression is not grpc.Compression.NoCompression and "bytes is above" in said:
        # Of what does not fit, no more is unpacked than shows it.
        said = re.sub(r"message of \d+ bytes", "message of some bytes", said)
    return Seen(
        call.code(),
        said,
        _sorted(call.initial_metadata()),
        _sorted(call.trailing_metadata()),
        () if sent.method in STATES else tuple(replies),
    )


def _sorted(metadata: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    # Times are never alike.
    return tuple(sorted((key, "" if key == TRAILER else value) for key, value in metadata))


@pytest.fixture(scope="module")
def both(repository: Path) -> Iterator[dict[Transport, Stub]]:
    configs = [
        Config(
            models=repository,
            port=0,
            limits=Limits(general=True),
            max_message_bytes=MAX_BYTES,
            transport=transport,
        )
        for transport in Transport
    ]
    with Server(configs[0]) as first, Server(configs[1]) as second:
        with Stub(first.port) as one, Stub(second.port) as other:
            yield {configs[0].transport: one, configs[1].transport: other}


def compare(both: dict[Transport, Stub], calls: int, seed: int) -> Counter[grpc.StatusCode]:
    rng = random.Random(seed)
    codes: Counter[grpc.StatusCode] = Counter()
    for number in range(calls):
        sent = generated(rng)
        oracle = see(both[Transport.GRPCIO], sent)
        ours = see(both[Transport.ASYNCIO], sent)
        if not oracle.message and oracle.code is not grpc.StatusCode.OK:
            # grpcio's own answer, which our code never saw: nor the caller's request id.
            assert all(key == REQUEST_ID for key, _ in set(ours.trailers) - set(oracle.trailers))
            ours = replace(ours, message="", trailers=oracle.trailers)
        assert ours == oracle, (number, sent)
        codes[oracle.code] += 1
    for stub in both.values():
        assert_answered(stub, GOOD["linear"])
    return codes


def test_500_random_calls_are_answered_alike(both: dict[Transport, Stub]) -> None:
    codes = compare(both, 500, seed=0)
    assert len(codes) >= 6
    assert codes[grpc.StatusCode.OK] > 100
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_5000_random_calls_are_answered_alike(
    both: dict[Transport, Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    codes = compare(both, 5_000, seed=1)
    with capsys.disabled():
        print("\n5,000 calls over both transports:", {c.name: n for c, n in codes.items()})
