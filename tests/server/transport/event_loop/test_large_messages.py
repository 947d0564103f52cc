"""Large messages are read to where they belong, into memory that is used again once it is free."""

import gc
import itertools
from struct import pack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http2 import DATA, END_STREAM, PADDED, frame, hello, message, request

from forwardpass.server.transport.event_loop.memory import RequestMemory
from forwardpass.server.transport.event_loop.messages import MessageReader
from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.limits import ConnectionLimits

MIB = 2**20


def data_frames(body: bytes, sizes: list[int], padding: list[int]) -> bytes:
    """DATA frames of these sizes again and again, some padded, the last one with the end."""
    parts, position = [], 0
    for size, pad in zip(itertools.cycle(sizes), itertools.cycle(padding), strict=False):
        part, position = body[position : position + size], position + size
        end = END_STREAM if position >= len(body) else 0
        if pad:
            parts.append(frame(DATA, end | PADDED, 1, bytes([pad]) + part + bytes(pad)))
        else:
            parts.append(frame(DATA, end, 1, part))
        if end:
            return b"".join(parts)
    raise AssertionError


def read(sent: bytes, reads: list[int], *, placed: bool) -> list[bytes]:
    """Feed a connection with reads of these sizes again and again; return the messages."""
    connection = Connection(ConnectionLimits(stream_window=4 * MIB, connection_window=8 * MIB))
    memory = RequestMemory(64 * MIB)
    reader = MessageReader(16 * MIB, b"identity", memory.room if placed else None)
    messages: list[bytes] = []
    position = 0
    for size in itertools.cycle(reads):
        room = connection.room()
        part = sent[position : position + (size if room is None else min(size, len(room)))]
        position += len(part)
        if room is None:
            news = connection.receive(memoryview(bytearray(part)))
        else:
            room[: len(part)] = part
            news = connection.receive_placed(len(part))
        for stream in news:
            came, stream.placed = stream.placed, 0
            stream.sink = None
            messages += map(bytes, reader.place(came) if came else ())
            messages += map(bytes, reader.feed(*stream.received))
            stream.received.clear()
            stream.sink = reader.sink
        if position >= len(sent):
            assert connection.failure is None
            assert stream.ended
            assert not reader.partial
            return messages
    raise AssertionError


@given(
    lengths=st.lists(st.integers(0, 300_000), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 2**18), min_size=1, max_size=3),
    padding=st.lists(st.sampled_from([0, 0, 0, 1, 255]), min_size=1, max_size=3),
    reads=st.lists(st.integers(1000, 2**18), min_size=1, max_size=4),
)
def test_messages_are_the_same_whatever_their_frames_and_reads(
    lengths: list[int], sizes: list[int], padding: list[int], reads: list[int]
) -> None:
    messages = [bytes(range(256)) * (n // 256) + bytes(n % 256) for n in lengths]
    # Frames of a byte would be a flood.
    sizes = [max(size, 1 + sum(lengths) // 500) for size in sizes]
    body = b"".join(map(message, messages))
    sent = hello() + request(1, None) + data_frames(body, sizes, padding)
    assert read(sent, reads, placed=True) == messages
    assert read(sent, reads, placed=False) == messages


def test_there_is_room_only_for_what_belongs_to_a_large_message() -> None:
    connection = Connection()
    assert connection.room() is None
    begun = message(bytes(MIB))[:100]
    whole = frame(DATA, 0, 1, begun + bytes(500_000))
    (stream,) = connection.receive(hello() + request(1, None) + whole[:109])
    assert connection.room() is None  # nobody has said where to
    stream.received.clear()
    stream.sink = memoryview(bytearray(400_000))
    room = connection.room()
    assert room is not None
    assert len(room) == 400_000
    connection.receive_placed(390_000)
    assert stream.placed == 390_000
    assert connection.room() is not None
    connection.receive_placed(10_000)
    assert connection.room() is None
    assert stream.sink is None


def test_a_run_of_frames_ends_at_the_window() -> None:
    connection = Connection(ConnectionLimits(stream_window=100_000))
    part = frame(DATA, 0, 1, bytes(16_384))
    (stream,) = connection.receive(hello() + request(1, None) + 6 * part)
    assert stream.reset is None
    (stream,) = connection.receive(2 * part)
    assert stream.reset is not None
    assert stream.reset.name == "FLOW_CONTROL_ERROR"


@pytest.mark.parametrize("size", [65_536, 65_537, 1_000_003])
def test_a_room_ends_where_elements_of_any_datatype_may(size: int) -> None:
    room = RequestMemory(MIB).room(size)
    assert room is not None
    assert len(room) == size
    for width in (2, 4, 8):
        assert np.frombuffer(room[-width * 100 :], f"f{width}").flags.aligned


def test_a_room_is_used_again_when_nothing_refers_to_it_any_more() -> None:
    memory = RequestMemory(4 * MIB)
    first = memory.room(100_000)
    assert first is not None
    first[:] = b"1" * len(first)
    part = first[5_000:]
    del first
    other = memory.room(100_000)
    assert other is not None
    other[:] = b"2" * len(other)
    assert bytes(part) == b"1" * len(part)
    del part
    again = memory.room(99_000)
    assert again is not None
    assert bytes(again[100:110]) == b"1" * 10


def test_no_room_is_given_for_more_than_may_be_announced() -> None:
    memory = RequestMemory(MIB)
    rooms = [memory.room(300_000) for _ in range(5)]
    assert [room is None for room in rooms] == [False, False, False, True, True]
    del rooms
    gc.collect()
    assert memory.room(MIB) is not None


def test_a_message_without_room_takes_the_memory_of_what_came() -> None:
    memory = RequestMemory(MIB)
    reader = MessageReader(2**31, b"identity", memory.room)
    assert list(reader.feed(b"\0" + pack(">I", 2**30) + b"x")) == []
    assert reader.sink is None
    assert reader.held == 1


def test_only_some_rooms_are_kept() -> None:
    memory = RequestMemory(256 * MIB)
    rooms = [memory.room(8 * MIB - 64) for _ in range(8)]
    assert None not in rooms
    del rooms
    memory.tidy()
    assert sum(len(each) for kept in memory._kept.values() for each in kept) == 16 * MIB
