"""gRPC's framing: messages are put together whatever way their bytes come."""

import gzip
import itertools
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http2 import message

from forwardpass.server.errors import MessageTooLargeError
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.event_loop.messages import MessageReader, pack

LIMIT = 200_000


def reader(encoding: bytes = b"identity", limit: int = LIMIT) -> MessageReader:
    return MessageReader(limit, encoding)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.binary(max_size=80), max_size=5), st.lists(st.integers(0, 10**6), max_size=6))
def test_messages_are_the_same_however_they_are_cut(
    messages: list[bytes], places: list[int]
) -> None:
    it = reader()
    got = [
        bytes(whole)
        for part in cut(b"".join(map(message, messages)), places)
        for whole in it.feed(memoryview(part))
    ]
    assert got == messages
    assert not it.partial


def test_a_large_message_is_a_view_of_memory_of_its_own() -> None:
    data = bytes(range(256)) * 500
    framed = bytearray(message(data))
    it = reader()
    assert list(it.feed(memoryview(framed)[:70_000])) == []
    assert (it.held, it.missing) == (69_995, len(data) - 69_995)
    (whole,) = it.feed(memoryview(framed)[70_000:])
    framed[:] = bytes(len(framed))
    assert isinstance(whole, memoryview)
    assert whole.readonly
    assert whole == data
    assert it.held == 0


def test_a_message_takes_the_memory_of_what_came_not_of_what_was_announced() -> None:
    it = MessageReader(2**31, b"identity")
    assert list(it.feed(b"\0\x7f\xff\xff\xff" + b"x")) == []
    assert it.held == 1
    assert it.missing == 2**31 - 2


def test_the_limit_is_known_from_the_prefix_alone() -> None:
    assert list(reader(limit=10).feed(message(bytes(10)))) == [bytes(10)]
    with pytest.raises(MessageTooLargeError, match="11 bytes"):
        list(reader(limit=10).feed(message(bytes(11))[:5]))


@pytest.mark.parametrize("flag", [2, 255])
def test_an_unknown_flag_is_refused(flag: int) -> None:
    with pytest.raises(BadMessageError, match=str(flag)):
        list(reader().feed(bytes([flag]) + bytes(4)))


PACKERS: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}


def packed(data: bytes, encoding: bytes) -> bytes:
    return b"\1" + message(PACKERS[encoding](data))[1:]


@pytest.mark.parametrize("encoding", PACKERS)
@given(data=st.binary(max_size=300))
def test_compressed_messages_are_unpacked(encoding: bytes, data: bytes) -> None:
    both = packed(data, encoding) + message(b"plain")
    assert list(reader(encoding).feed(both)) == [data, b"plain"]


@pytest.mark.parametrize("encoding", PACKERS)
def test_the_limit_is_on_what_a_message_unpacks_to(encoding: bytes) -> None:
    bomb = packed(bytes(10_000_000), encoding)
    assert len(bomb) < 50_000
    with pytest.raises(MessageTooLargeError):
        list(reader(encoding, limit=100_000).feed(bomb))
    assert list(reader(encoding, limit=10_000_000).feed(bomb)) == [bytes(10_000_000)]


BROKEN = {
    "not compressed at all": b"plain text",
    "cut short": gzip.compress(b"some text that is long enough")[:-9],
    "with more behind it": gzip.compress(b"text") + b"more",
    "with a wrong checksum": gzip.compress(b"text")[:-5] + bytes(5),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_bytes_that_do_not_unpack_are_refused(data: bytes) -> None:
    with pytest.raises(BadMessageError):
        list(reader(b"gzip").feed(b"\1" + message(data)[1:]))


def test_a_compressed_message_needs_an_encoding() -> None:
    with pytest.raises(BadMessageError, match="grpc-encoding"):
        list(reader().feed(packed(b"x", b"gzip")))


@given(st.binary(max_size=300))
def test_what_is_packed_can_be_read(data: bytes) -> None:
    assert list(reader(b"gzip").feed(pack(data))) == [data]
