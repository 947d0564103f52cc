"""Streams of frames that were good once: frames dropped, doubled, swapped, bytes changed."""

import random
from collections.abc import Sequence

from support.peers.frames import PREFACE, frame

Parsed = list[tuple[int, int, int, bytes]]
"""Type, flags, stream, payload."""


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed, or several behind one another, changed once to four times."""
    frames: Parsed = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        frames += parse(rng.choice(seeds).removeprefix(PREFACE))
    for _ in range(rng.randint(1, 4)):
        rng.choice(CHANGES)(rng, frames)
    stream = bytearray(PREFACE + b"".join(frame(*each) for each in frames))
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 5)):
            stream[rng.randrange(len(stream))] = rng.randrange(256)
    if rng.random() < 0.1:
        del stream[rng.randrange(len(stream)) :]
    return bytes(stream)


def parse(stream: bytes) -> Parsed:
    """Read frames; what is cut short is left out."""
    frames = []
    while len(stream) >= 9:
        size = int.from_bytes(stream[:3], "big")
        frames.append(
            (stream[3], stream[4], int.from_bytes(stream[5:9], "big"), stream[9 : 9 + size])
        )
        stream = stream[9 + size :]
    return frames


def _drop(rng: random.Random, frames: Parsed) -> None:
    if frames:
        del frames[rng.randrange(len(frames))]


def _double(rng: random.Random, frames: Parsed) -> None:
    if frames:
        frames.insert(rng.randrange(len(frames) + 1), rng.choice(frames))


def _flood(rng: random.Random, frames: Parsed) -> None:
    if frames:
        frames += [rng.choice(frames)] * rng.choice((10, 300))


def _swap(rng: random.Random, frames: Parsed) -> None:
    if frames:
        frames.append(frames.pop(rng.randrange(len(frames))))


def _split(rng: random.Random, frames: Parsed) -> None:
    """Cut a frame in two, the second of a random type: CONTINUATION, if it was HEADERS."""
    if frames:
        at = rng.randrange(len(frames))
        kind, flags, stream_id, payload = frames[at]
        cut = rng.randrange(len(payload) + 1)
        rest = 9 if kind == 1 else rng.randrange(11)
        frames[at : at + 1] = [
            (kind, flags & ~4, stream_id, payload[:cut]),
            (rest, flags & 4, stream_id, payload[cut:]),
        ]


def _retouch(rng: random.Random, frames: Parsed) -> None:
    if frames:
        at = rng.randrange(len(frames))
        kind, flags, stream_id, payload = frames[at]
        changed = bytearray(payload)
        match rng.randrange(5):
            case 0:
                kind = rng.randrange(11)
            case 1:
                flags ^= 1 << rng.randrange(8)
            case 2:
                stream_id = rng.choice((0, 1, 2, 3, 5, 7, 2**31 - 1, 2**31 + 1))
            case 3 if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            case _:
                changed += rng.randbytes(rng.randrange(20))
        frames[at] = (kind, flags, stream_id, bytes(changed))


CHANGES = (_drop, _double, _flood, _swap, _split, *[_retouch] * 4)
