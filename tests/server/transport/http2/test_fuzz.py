"""The sans-IO core, fed by Hypothesis: mutated streams of frames, cut anywhere."""

import random

import hpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.peers.core import GREETING, SEEDS, exercise, pieces, seen
from support.peers.frames import frame, literal
from support.peers.mutants import mutate

from forwardpass.server.transport.http2.errors import ConnectionFailedError
from forwardpass.server.transport.http2.fields import FieldDecoder

IDS = st.one_of(st.integers(0, 9), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]))
ANY_FRAME = st.builds(
    frame,
    st.integers(0, 11),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x24, 0x2D]), st.integers(0, 255)),
    IDS,
    st.one_of(st.binary(max_size=40), st.sampled_from([bytes(4), bytes(8), bytes(2**14)])),
)
SEED = st.sampled_from(SEEDS)
BODY = SEED.map(lambda seed: seed.removeprefix(GREETING))
STREAMS = st.one_of(
    SEED,
    st.lists(st.one_of(ANY_FRAME, BODY), max_size=12).map(lambda parts: GREETING + b"".join(parts)),
    st.builds(lambda seed: mutate(random.Random(seed), SEEDS), st.integers(0, 2**32)),
)
CUTS = st.lists(st.integers(0, 2**16), max_size=12)
EVERYDAY = settings(max_examples=300, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=5_000, suppress_health_check=list(HealthCheck))


@EVERYDAY
@given(STREAMS, CUTS)
def test_no_stream_of_frames_breaks_the_core(stream: bytes, cuts: list[int]) -> None:
    exercise(pieces(stream, cuts))


@EVERYDAY
@given(STREAMS, CUTS)
# Two faults in a frame of DATA: no stream, and more padding than payload.
@example(GREETING + frame(0, 8, 0, b"\x02\0"), [43])
def test_it_makes_no_difference_where_the_network_cuts(stream: bytes, cuts: list[int]) -> None:
    assert seen([stream]) == seen(pieces(stream, cuts))


BLOCKS = st.lists(
    st.one_of(
        st.builds(
            lambda name, value: literal([(name, value)], first=0x40),
            st.sampled_from(["a", "b", "long" * 300]),
            st.sampled_from(["1", "2"]),
        ),
        # One of the newest entries; the table smaller, empty, and as it was.
        st.sampled_from([b"\xbe", b"\xbf", b"\xbe\xbf", b"\x20", b"\x3f\x31", b"\x3f\xe1\x1f"]),
    ),
    max_size=30,
)


@EVERYDAY
@given(BLOCKS)
def test_cached_blocks_mean_what_a_decoder_without_a_cache_says(blocks: list[bytes]) -> None:
    ours, plain = FieldDecoder(2**16), hpack.Decoder()
    for block in blocks:
        try:
            expected = tuple((bytes(k), bytes(v)) for k, v in plain.decode(block, raw=True))
        except hpack.HPACKError:
            with pytest.raises(ConnectionFailedError):
                ours.decode(block)
            return
        assert ours.decode(block).fields == expected


@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
def test_it_makes_no_difference_if_every_byte_comes_alone(seed: bytes) -> None:
    small = seed[:3000]
    assert seen([small]) == seen(small[at : at + 1] for at in range(len(small)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_mutated_stream_of_many_breaks_the_core() -> None:
    @LONG
    @given(STREAMS, CUTS)
    def check(stream: bytes, cuts: list[int]) -> None:
        exercise(pieces(stream, cuts))
        assert seen([stream]) == seen(pieces(stream, cuts))

    check()
