"""Other people's clients beside ours in one process, and ours on its lowest versions.

What each client gets from our server is in test_support_table.py.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conformance.conftest import PROGRAMS
from conformance.environments import ROOT

from forwardpass.models import forward, publish
from forwardpass.models.zoo import ZOO
from forwardpass.server.app import Server
from forwardpass.server.config import Config

MODEL = "breast_cancer"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository = tmp_path_factory.mktemp("repository")
    publish(ZOO[MODEL].network(), repository)
    with Server(Config(models=repository, port=0)) as server:
        yield f"127.0.0.1:{server.port}"


def answers_of(python: Path, program: str, target: str, folder: Path) -> dict[str, np.ndarray]:
    """Let a program predict the held-out patients; return what it wrote."""
    inputs, answers = folder / "inputs.npz", folder / "answers.npz"
    np.savez(inputs, x=ZOO[MODEL].held_out().x)
    done = subprocess.run(
        [python, PROGRAMS / program, target, MODEL, inputs, answers],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(answers) as arrays:
        return dict(arrays)


def assert_close_to_reference(answers: dict[str, np.ndarray], prefix: str) -> None:
    expected = forward(ZOO[MODEL].network(), ZOO[MODEL].held_out().x)
    assert {f"{prefix}/{name}" for name in expected} <= set(answers)
    for name, reference in expected.items():
        got = answers[f"{prefix}/{name}"]
        assert np.abs(got - reference).max() <= 2e-6 * np.abs(reference).max()


def test_an_unmodified_tritonclient_gets_our_numbers_beside_our_client_in_one_process(
    environment: Callable[..., Path], target: str, tmp_path: Path
) -> None:
    python = environment("tritonclient[grpc]", "-e", str(ROOT))
    answers = answers_of(python, "triton_predict.py", target, tmp_path)
    assert_close_to_reference(answers, "triton")
    for name in ZOO[MODEL].network().outputs:
        np.testing.assert_array_equal(answers[f"triton/{name.name}"], answers[f"ours/{name.name}"])


def test_the_tritonclient_that_pins_an_old_grpcio_works_too(
    environment: Callable[..., Path], target: str, tmp_path: Path
) -> None:
    # Alone: grpcio below 1.68, which it requires, is older than what our client requires.
    python = environment("tritonclient[grpc]==2.53.*", "numpy<2")
    answers = answers_of(python, "triton_predict.py", target, tmp_path)
    assert_close_to_reference(answers, "triton")
    assert not [name for name in answers if name.startswith("ours/")]


def test_our_client_on_the_lowest_versions_gets_its_numbers_from_a_server_on_the_newest(
    lowest: Path, target: str, tmp_path: Path
) -> None:
    answers = answers_of(lowest, "our_predict.py", target, tmp_path)
    assert_close_to_reference(answers, "ours")
