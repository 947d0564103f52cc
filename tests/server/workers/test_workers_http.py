"""HTTP/1.1 of several processes: one port, and what one of them acknowledges holds for all."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from support import pages
from support.ports import free_ports
from support.rest import Rest
from support.versions import put
from support.waiting import eventually
from support.workers import Processes, connected, processes

from forwardpass.server.config import Transport

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def clients_of_all(served: Processes, port: int, stack: ExitStack) -> list[Rest]:
    """Return clients that have made one call each, until every worker has a connection."""
    clients: list[Rest] = []

    def all_have_some() -> bool:
        client = stack.enter_context(Rest(port))
        clients.append(client)
        assert client.post("/v2/models/m/infer", BODY).status == 200
        return all(connected(pid, f"127.0.0.1:{port}") for pid in served.workers())

    eventually(all_have_some)
    return clients


@pytest.mark.parametrize("transport", list(Transport))
def test_all_processes_answer_on_one_port(tmp_path: Path, transport: Transport) -> None:
    put(tmp_path / "models", "m", 1, 1)
    (port,) = free_ports(1)
    arguments = ("--http-port", str(port), "--model-control", "--transport", transport)
    with (
        processes(tmp_path / "models", tmp_path / "log", *arguments) as served,
        ExitStack() as stack,
    ):
        assert f"REST on 127.0.0.1:{port}" in served.said
        clients = clients_of_all(served, port, stack)
        stats = clients[0].get("/v2/models/m/stats").json["model_stats"]
        assert stats[0]["inference_stats"]["success"]["count"] == len(clients)
        assert clients[0].post("/v2/repository/models/m/unload").status == 200
        assert {each.post("/v2/models/m/infer", BODY).status for each in clients} == {404}
        assert clients[-1].post("/v2/repository/models/m/load").status == 200
        assert {each.post("/v2/models/m/infer", BODY).status for each in clients} == {200}


def test_the_page_shows_the_calls_of_all_processes(tmp_path: Path) -> None:
    put(tmp_path / "models", "m", 1, 1)
    (port,) = free_ports(1)
    with (
        processes(tmp_path / "models", tmp_path / "log", "--http-port", str(port)) as served,
        ExitStack() as stack,
    ):
        clients = clients_of_all(served, port, stack)
        for client in clients:
            model = pages.of_model(client, "m")
            assert model["calls"] == len(clients)
            assert model["p50_ms"] > 0
            found = pages.run(client, "m", {"x": [[1, 2]]})
            assert found["outputs"] == found["layers"] == {"y": [[2, 3]]}
        assert pages.of_model(clients[0], "m")["calls"] == len(clients)
