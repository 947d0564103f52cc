"""Merged networks on the real server: one call for all, the bits of each, thresholds told."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forwardpass.client import Client
from forwardpass.models import Input, Network, merge, publish
from forwardpass.proto.metadata import BATCH_INVARIANT, OUTPUTS
from forwardpass.server.app import Server
from forwardpass.server.config import Config

FEATURES = ("age", "mass", "pulse")
X = np.random.default_rng(0).normal([50, 70, 70], [20, 15, 10], (64, 3)).astype(np.float32)
SINGLE = {
    "heart": Network.chain(
        [3, 16, 8, 2],
        "tanh",
        "sigmoid",
        input=Input(3, features=FEATURES, mean=[50, 70, 70], scale=[20, 15, 10]),
        labels=("rhythm", "valve"),
        thresholds=(0.2, 0.6),
        name="heart",
        seed=1,
    ),
    "lungs": Network.chain(
        [3, 5, 1],
        input=Input(3, features=FEATURES, mean=[40, 80, 75], scale=[10, 10, 12]),
        name="lungs",
        seed=2,
    ),
    "raw": Network.chain([3, 4, 1], input=Input(3, features=FEATURES), name="raw", seed=3),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root: Path = tmp_path_factory.mktemp("merged")
    for network in SINGLE.values():
        publish(network, root)
    publish(merge(SINGLE, name="patient"), root)
    with Server(Config(models=root, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            yield client


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_one_call_answers_for_all_with_the_bits_of_each(client: Client, rows: int) -> None:
    together = client.predict("patient", X[:rows])

    assert list(together) == ["heart_y", "lungs_y", "raw_y"]
    for name in SINGLE:
        alone = client.predict(name, X[:rows])["y"]
        assert together[f"{name}_y"].tobytes() == alone.tobytes()


def test_it_is_batched_as_the_single_ones_are(client: Client) -> None:
    for name in (*SINGLE, "patient"):
        assert client.metadata(name).properties[BATCH_INVARIANT] == "true"


def test_thresholds_reach_the_client_beside_the_labels(client: Client) -> None:
    told = json.loads(client.metadata("patient").properties[OUTPUTS])

    assert told["heart_y"] == {"labels": ["rhythm", "valve"], "thresholds": [0.2, 0.6]}
    assert "thresholds" not in told["lungs_y"]
