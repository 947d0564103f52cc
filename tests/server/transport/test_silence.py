"""The server tells nobody but its callers: no telemetry of onnxruntime's, nor anybody else's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command import environment, serving
from support.rpc import Stub
from support.versions import put
from support.wire import infer_request

TESTS = Path(__file__).parents[2]


@pytest.mark.slow
def test_nothing_leaves_the_machine(tmp_path: Path) -> None:
    # onnxruntime 1.32 with telemetry on tries within these seconds: 4 packets without a route.
    put(tmp_path, "m", 1, 1)

    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "support.isolated", str(tmp_path), "12"],
        cwd=TESTS,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["calls"] > 10
    assert told["quiet"] == {"no route": 0, "udp": 0}
    assert told["spoken"]["no route"] > 0
    assert not [link for link in told["held"] if "onnxruntime.db" in link]


def test_every_socket_of_the_server_is_a_callers_or_waits_for_one(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, 1)
    with serving(tmp_path, "--port", "0") as server, Stub(server.target) as stub:
        for _ in range(50):
            stub.infer(infer_request("m", {"x": np.ones((1, 2), np.float32)}))
        held = links(server.process.pid)
        ports = internet_sockets()

    # The database in which onnxruntime's telemetry waits to be sent.
    assert not [link for link in held if "onnxruntime.db" in link]
    local_ports = [ports[link] for link in held if link in ports]
    assert len(local_ports) >= 2
    assert set(local_ports) == {int(server.target.rpartition(":")[2])}


def links(pid: int) -> list[str]:
    """What a process holds open."""
    return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def internet_sockets() -> dict[str, int]:
    """The local port of every TCP and UDP socket of the machine, by the link to it."""
    found = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            found[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    return found
