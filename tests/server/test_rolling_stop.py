"""A replica that is told to end under load loses nobody's call."""

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from support.process import server_process

from forwardpass.client import Client
from forwardpass.models import Network, publish

pytestmark = pytest.mark.usefixtures("transport")

NETWORK = Network.chain([30, 64, 32, 2], "relu", "sigmoid", name="small")
# What any gRPC client can be told: all replicas in turns, UNAVAILABLE again.
RETRYING = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def test_a_rolling_stop_under_load_fails_no_call_of_a_retrying_client(tmp_path: Path) -> None:
    publish(NETWORK, tmp_path)
    x = np.ones((1, 30), np.float32)
    expected = NETWORK(x)["y"]
    failed: list[Exception] = []
    answered = [0] * 8
    stop = threading.Event()

    def caller(index: int, client: Client) -> None:
        while not stop.is_set():
            try:
                got = client.predict("small", x)["y"]
                assert np.abs(got - expected).max() < 1e-5
                answered[index] += 1
                # At full speed they would take a core for themselves.
                stop.wait(0.002)
            except Exception as error:
                failed.append(error)

    with (
        server_process(tmp_path, drain_s=1.0) as first,
        server_process(tmp_path, drain_s=1.0) as second,
        Client(
            f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}",
            options=[("grpc.service_config", RETRYING)],
        ) as client,
    ):
        threads = [threading.Thread(target=caller, args=(index, client)) for index in range(8)]
        for thread in threads:
            thread.start()
        stop.wait(1.0)
        first.send(signal.SIGTERM)
        assert first.exit_code(within_s=20) == 0
        after_the_stop = sum(answered)
        stop.wait(1.0)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[:3]
    assert sum(answered) > after_the_stop > 100
