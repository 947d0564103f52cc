"""Feed the core of HTTP/2 with what atheris makes of the RFCs' cases, guided by coverage.

Usage: fuzz_http2.py CORPUS BYTES [libFuzzer's options]; prints what was fed. Each input's first
bytes say where the network cuts the others. Ends with an error for the first input that the core
does not bear; libFuzzer keeps it in a file.
"""

import os
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["forwardpass.server.transport.http2", "hpack"]):
    from support.peers.core import GREETING, SEEDS, exercise, pieces

from support.peers.mutants import mutate

_CUTS = 4
"""Bytes of an input that are no frames."""


class Feeder:
    """Counts what it feeds, and ends the process when it is enough."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.fed = self.inputs = self.survived = 0

    def feed(self, data: bytes) -> None:
        cuts = [97 * (place + 1) * byte for place, byte in enumerate(data[:_CUTS])]
        stream = data[_CUTS:]
        connection = exercise(pieces(stream, cuts))
        self.fed += len(stream)
        self.inputs += 1
        self.survived += connection.failure is None
        if self.fed >= self.wanted:
            print(
                f"fed {self.fed} bytes in {self.inputs} inputs, of which {self.survived} did not "
                "end the connection",
                flush=True,
            )
            # libFuzzer has no other way out that is no error.
            os._exit(0)


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """Change frames as frames; bytes, in one of four turns."""
    if seed % 4 == 0:
        return bytes(atheris.Mutate(data, max_size))
    rng = random.Random(seed)
    cuts, stream = data[:_CUTS].ljust(_CUTS, b"\0"), data[_CUTS:]
    cuts = rng.randbytes(_CUTS) if rng.random() < 0.3 else cuts
    seeds = [stream, rng.choice(SEEDS)] if stream.startswith(GREETING[:24]) else SEEDS
    return (cuts + mutate(rng, seeds))[:max_size]


corpus = Path(sys.argv[1])
for number, seed in enumerate(SEEDS):
    (corpus / f"{number:03}").write_bytes(bytes(_CUTS) + seed)
feeder = Feeder(int(sys.argv[2]))
atheris.Setup([sys.argv[0], *sys.argv[3:], str(corpus)], feeder.feed, custom_mutator=change)
atheris.Fuzz()
