"""Mutated model files through the loader, as a server with them on its disk does.

Every file ends in a model that answers or in a reason, in bounded time, and the process lives.
"""

import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from support import onnx_files
from support.mutants import mutate
from support.onnx_files import build, tensor
from support.proc import resident_mib

from forwardpass.models import to_onnx
from forwardpass.models.zoo import ZOO
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.engine.replay import NoAnswerError, WrongAnswerError
from forwardpass.server.engine.session import SessionError
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import GuardError, Limits
from forwardpass.server.repository.disk import find_models
from forwardpass.server.repository.loader import Loader
from forwardpass.server.repository.trial import Trial, TrialError

DEADLINE_S = 3.0


def normalization() -> bytes:
    """A good model that is not plain."""
    content: bytes = build(
        [
            helper.make_node("LayerNormalization", ["x", "gain"], ["n"]),
            helper.make_node("Gemm", ["n", "W", "b"], ["y"], transB=1),
        ],
        [tensor("x", "FP32", ["batch", 3])],
        [tensor("y", "FP32", ["batch", 2])],
        constants={"gain": np.ones(3, np.float32), "W": onnx_files.W, "b": onnx_files.B},
    ).SerializeToString()
    return content


def good_files() -> list[bytes]:
    models = [to_onnx(example.network()) for example in ZOO.values()]
    models += [
        onnx_files.linear(),
        onnx_files.pair(),
        onnx_files.pick(),
        onnx_files.fold(),
        onnx_files.constant(),
        onnx_files.slow(),
        onnx_files.identity("INT64", ["n", 3]),
        onnx_files.identity("BYTES", ["n"]),
    ]
    return [model.SerializeToString() for model in models] + [normalization()]


def load_mutants(count: int, folder: Path, general: bool, seed: int) -> Counter[str]:
    """Load so many, and count by what became of them."""
    rng = random.Random(seed)
    files = good_files()
    path = folder / "model.onnx"
    ends: Counter[str] = Counter()
    with Trial(cpu_s=DEADLINE_S) as trial:
        loader = Loader(folder, Limits(general=general), trial, QueueLimits())
        for number in range(count):
            # Left on the disk if the process does not live.
            path.write_bytes(mutate(rng, files))
            (file,) = find_models(folder)
            start = time.monotonic()
            reason, end = "-", "loaded"
            try:
                loader.load(file)
            except ModelFailedError as error:
                reason, end = error.reason, type(error.__cause__).__name__
            ends[end] += 1
            assert reason, number
            assert time.monotonic() - start < DEADLINE_S + 5, number
    return ends


def report(ends: Counter[str], seconds: float, grown_mib: float) -> None:
    counts = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    print(f"\n{ends.total()} files in {seconds:.0f} s, {grown_mib:+.0f} MiB: {counts}")


@pytest.mark.parametrize("general", [False, True], ids=["", "general"])
def test_100_mutated_files(general: bool, tmp_path: Path) -> None:
    ends = load_mutants(50, tmp_path, general, seed=1)

    assert ends[GuardError.__name__] > 0
    assert ends["loaded"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_2000_mutated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_mutants(50, tmp_path, general=False, seed=2)
    before, start = resident_mib(), time.monotonic()

    ends = load_mutants(1000, tmp_path, general=False, seed=3)
    ends += load_mutants(1000, tmp_path, general=True, seed=4)

    grown = resident_mib() - before
    with capsys.disabled():
        report(ends, time.monotonic() - start, grown)
    assert grown < 100
    expected = {GuardError, TrialError, SessionError, NoAnswerError, WrongAnswerError}
    assert ends.keys() - {each.__name__ for each in expected} <= {
        "loaded",
        "MetadataError",
        "TensorError",
    }
