"""Networks of every activation on the real server: plain, within the bound, NaN only where due."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.networks import functions

from forwardpass.client import Client
from forwardpass.models import AnyActivation, Network, forward, publish, rounding_bound
from forwardpass.models.activations import activation_of
from forwardpass.proto.metadata import BATCH_INVARIANT
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits, check_file

RNG = np.random.default_rng(0)
LARGEST = float(np.finfo(np.float32).max)
ORDINARY = (RNG.standard_normal((64, 4)) * 3).astype(np.float32)
SIZES = np.array([0, 1e-45, 1e-38, 88, 1e4, 1e19, 1e30, LARGEST], np.float32)
EXTREME = np.repeat(np.concatenate([SIZES, -SIZES])[:, np.newaxis], 4, axis=1)


def network(name: str, activation: AnyActivation) -> Network:
    """One whose sums are the features themselves, so that extreme ones arrive."""
    hidden = "identity" if activation_of(activation).outputs_only else activation
    identity = (np.eye(4), np.zeros(4))
    return Network.chain([4, 4, 4], hidden, activation, parameters=[identity] * 2, name=name)


NETWORKS = {
    f"n{number}": network(f"n{number}", activation)
    for number, activation in enumerate(functions(RNG, 4, hidden=False))
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("activations")
    for each in NETWORKS.values():
        publish(each, root)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[Client]:
    with Server(Config(models=root, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            yield client


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_is_proven_harmless_without_a_trial(root: Path, name: str) -> None:
    checked = check_file(root / name / "1" / "model.onnx", root=root, limits=Limits())
    assert checked.plain
    assert checked.needs_trial == ""


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_served_is_within_the_rounding_bound(client: Client, name: str) -> None:
    for rows in (ORDINARY, ORDINARY[:1], EXTREME):
        got = client.predict(name, rows)["y"]
        expected, bound = (f(NETWORKS[name], rows)["y"] for f in (forward, rounding_bound))
        sure = np.isfinite(bound)
        assert sure[np.abs(rows[:, 0]) < 1e4].all() or NETWORKS[name].layers[-1].activation == "exp"
        assert (np.abs(got[sure] - expected[sure]) <= bound[sure]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_are_proven_independent(client: Client, name: str) -> None:
    # Of any other width than a multiple of four, elu, selu, mish and softplus differ in last bits.
    assert client.metadata(name).properties[BATCH_INVARIANT] == "true"
