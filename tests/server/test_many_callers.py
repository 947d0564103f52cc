"""Many callers at once: every one gets exactly its own rows, to the bit."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from support import onnx_files

from forwardpass.client import Client
from forwardpass.models import Network, publish
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.engine.session import Session

pytestmark = pytest.mark.usefixtures("transport")

CALLERS = 200
CALLS = 3
ROWS = 700
"""More than the largest useful batch of some models, so that calls are split, too."""


@dataclass(frozen=True)
class Served:
    name: str
    x: NDArray[np.float32]
    answers: dict[str, NDArray[np.float32]]
    """Each row computed alone."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    networks = [
        # Slow enough that callers meet in its queue.
        Network.chain([784, 512, 512, 10], "relu", "softmax", name="wide"),
        Network.chain([30, 64, 32, 2], "tanh", "sigmoid", name="narrow"),
        Network.chain([3, 3, 1], "sigmoid", name="lecture"),
    ]
    for network in networks:
        publish(network, repository)
    mixing = onnx_files.build(
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [onnx_files.tensor("x", "FP32", ["batch", 3])],
        [onnx_files.tensor("y", "FP32", ["batch", 3])],
    )
    onnx_files.save(mixing, repository / "mixing.onnx")
    return repository


@pytest.fixture(scope="module")
def target(repository: Path, transport: Transport) -> Iterator[str]:
    with Server(Config(models=repository, port=0, workers=64)) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def served(repository: Path) -> list[Served]:
    rng = np.random.default_rng(0)
    models = []
    for name in ("wide", "narrow", "lecture"):
        session = Session(repository / name / "1" / "model.onnx")
        x = rng.standard_normal((ROWS, session.inputs[0].shape[1])).astype(np.float32)
        names = [spec.name for spec in session.outputs]
        singles = [session.run({"x": x[row : row + 1]}, names) for row in range(ROWS)]
        answers = {
            output: np.concatenate([row[index] for row in singles])
            for index, output in enumerate(names)
        }
        models.append(Served(name, x, answers))
    return models


@pytest.mark.parametrize("seed", range(3))
def test_every_caller_gets_its_own_rows(target: str, served: list[Served], seed: int) -> None:
    wrong: list[str] = []
    start = threading.Barrier(CALLERS)

    def caller(number: int, client: Client) -> None:
        rng = np.random.default_rng([seed, number])
        start.wait(30)
        for _ in range(CALLS):
            model = served[rng.integers(len(served))]
            count = int(rng.choice([1, 1, 1, 2, 7, 40, ROWS]))
            rows = rng.permutation(ROWS)[:count]
            prediction = client.predict(model.name, model.x[rows], timeout_s=60)
            wrong.extend(
                f"caller {number}: {model.name}.{name}, {count} rows"
                for name, answers in model.answers.items()
                if prediction[name].tobytes() != answers[rows].tobytes()
            )

    with Client(target) as client:
        threads = [
            threading.Thread(target=caller, args=(number, client)) for number in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_rows_of_a_model_that_mixes_them_are_never_put_together(target: str) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    alone = np.exp(x) / np.exp(x).sum(axis=0)
    wrong = []

    def caller(client: Client) -> None:
        for _ in range(20):
            got = client.predict("mixing", x)["y"]
            if not np.allclose(got, alone, rtol=1e-5):
                wrong.append(got)

    with Client(target) as client:
        threads = [threading.Thread(target=caller, args=(client,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
