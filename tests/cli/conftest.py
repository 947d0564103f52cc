"""A repository of a few models, served by the command for all tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import onnx_files
from support.command import COMMAND, Serving, serving

from forwardpass.models import Dense, Input, Network, Output, publish
from forwardpass.models.zoo import ZOO


def adder() -> Network:
    """y = (a + 2 b, a - b) and sum = a + b, exact in float32 on small numbers."""
    return Network.define(
        Input(2, features=("a", "b"), units=("mm", "")),
        [
            Dense("mixed", activation="identity", W=[[1, 2], [1, -1]]),
            Dense("sum", activation="identity", W=[[1, 1]], reads="x"),
        ],
        [
            Output("y", "mixed", labels=("a + 2b", "a - b"), units=("mm", "mm")),
            Output("sum", "sum", description="both together"),
        ],
        name="adder",
    )


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    publish(adder(), root)
    publish(adder(), root)
    publish(ZOO["breast_cancer"].network(), root)
    models = {
        "linear": onnx_files.linear(),
        "pair": onnx_files.pair(),
        "counts": onnx_files.identity("INT64", ["batch", 3]),
        "bytes": onnx_files.identity("BYTES", ["batch", 1]),
        "constant": onnx_files.constant(),
        "scalar": onnx_files.identity("FP32", []),
    }
    for name, model in models.items():
        onnx_files.save(model, root / name / "1" / "model.onnx")
    return root


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Serving]:
    # As users start it, with an interpreter of its own.
    with serving(repository, "--port", "0", timeout_s=600, program=COMMAND) as server:
        yield server


@pytest.fixture(scope="session")
def patients() -> np.ndarray:
    return np.asarray(ZOO["breast_cancer"].held_out().x[:3])
