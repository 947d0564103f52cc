"""The overview counts what callers do, and shows it to those who may read it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import pages
from support.rest import Rest
from support.rpc import Stub
from support.versions import BROKEN, put
from support.waiting import eventually
from support.wire import infer_request

from forwardpass.proto.version import __version__
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.config import Transport
from forwardpass.server.engine.histogram import BOUNDS_NS
from forwardpass.server.rpc.page.overview import percentile_ms

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
READER = new_token("reader", ["m"], [Action.READ, Action.INFER])
INFERRER = new_token("inferrer", ["m"], [Action.INFER])
OWNER = new_token("owner", ["*"], list(Action))


def test_calls_errors_and_batches_are_counted_over_all_versions(
    tmp_path: Path, transport: Transport
) -> None:
    put(tmp_path, "m", 1, 1)
    put(tmp_path, "m", 2, 2)
    put(tmp_path, "quiet", 1, 1)
    put(tmp_path, "broken", 1, BROKEN)
    with pages.served(tmp_path, transport=transport) as (server, client), Stub(server.port) as stub:
        before = pages.of_model(client, "m")
        assert before["p50_ms"] is before["p99_ms"] is None
        assert (before["calls"], before["errors"], before["batches"]) == (0, {}, {})
        for rows in (1, 1, 3, 64):
            stub.infer(infer_request("m", {"x": np.zeros((rows, 2), np.float32)}))
        assert client.post("/v2/models/m/versions/1/infer", BODY).status == 200
        for _ in range(3):
            assert client.post("/v2/models/m/infer", {"inputs": []}).status == 400
        found = pages.of_model(client, "m")
        assert found["calls"] == 8
        assert found["errors"] == {"INVALID_ARGUMENT": 3}
        assert found["batches"] == {"1": 3, "4": 1, "64": 1}
        assert 0 < found["p50_ms"] <= found["p99_ms"] <= 1e4
        assert found["waiting"] == 0
        assert [version["version"] for version in found["versions"]] == ["1", "2"]
        whole = pages.overview(client)
        assert [model["name"] for model in whole["models"]] == ["broken", "m", "quiet"]
        (version,) = whole["models"][0]["versions"]
        assert version["state"] == "UNAVAILABLE"
        assert version["reason"]
        assert whole["models"][2]["calls"] == 0
        assert whole["server"]["version"] == __version__
        assert whole["server"]["uptime_s"] > 0
        assert whole["callers"] == []


def test_the_process_is_shown(tmp_path: Path, transport: Transport) -> None:
    put(tmp_path, "m", 1, 1)
    with pages.served(tmp_path, transport=transport) as (server, client):
        process = pages.overview(client)["process"]
        assert process["memory_bytes"] > 2**20
        assert process["connections"] >= 1
        assert process["calls_in_flight"] == 0
        assert (process["waiting_calls"], process["shed_calls"]) == (0, 0)
        with Rest(server.http_port):
            before = process["connections"]
            eventually(lambda: pages.overview(client)["process"]["connections"] == before + 1)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text("\n".join(each.line for each in (READER, INFERRER, OWNER)))
    file.chmod(0o600)
    return file


def by(token: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.token}"}


def test_each_caller_sees_what_it_may_read(
    tmp_path: Path, tokens: Path, transport: Transport
) -> None:
    put(tmp_path / "models", "m", 1, 1)
    put(tmp_path / "models", "secret", 1, 1)
    with pages.served(tmp_path / "models", transport=transport, tokens=tokens) as (_, client):

        def seen(token: Any) -> dict[str, Any]:
            found: dict[str, Any] = client.call("GET", pages.OVERVIEW, fields=by(token)).json
            return found

        assert [model["name"] for model in seen(READER)["models"]] == ["m"]
        assert [model["name"] for model in seen(OWNER)["models"]] == ["m", "secret"]
        assert seen(INFERRER)["models"] == []
        for _ in range(2):
            call = client.call("POST", "/v2/models/m/infer", BODY, by(INFERRER))
            assert call.status == 200
        assert client.call("POST", "/v2/models/m/infer", BODY, by(OWNER)).status == 200
        bad = client.call("POST", "/v2/models/m/infer", {"inputs": []}, by(OWNER))
        assert bad.status == 400
        whole = [{"name": "inferrer", "calls": 2}, {"name": "owner", "calls": 2}]
        assert seen(OWNER)["callers"] == whole
        assert seen(INFERRER)["callers"] == whole[:1]
        assert seen(READER)["callers"] == []
        # Nobody sees the page's data without a token.
        for path in (pages.OVERVIEW, pages.model_path("m")):
            refused = client.get(path)
            assert refused.status == 401
            assert refused.fields["www-authenticate"] == "Bearer"
        assert pages.ask_run(client, "m", {"x": [[1, 2]]}).status == 401
        assert client.get("/").status == 200


def test_models_and_runs_need_the_permissions_of_rest(
    tmp_path: Path, tokens: Path, transport: Transport
) -> None:
    put(tmp_path / "models", "m", 1, 1)
    put(tmp_path / "models", "secret", 1, 1)
    with pages.served(tmp_path / "models", transport=transport, tokens=tokens) as (_, client):
        for token, name, status in (
            (READER, "m", 200),
            (READER, "secret", 403),
            (INFERRER, "m", 403),
            (OWNER, "secret", 200),
            (READER, "unknown", 403),
            (OWNER, "unknown", 404),
        ):
            path = pages.model_path(name)
            assert client.call("GET", path, fields=by(token)).status == status
        x = {"x": [[1, 2]]}
        ran = pages.ask_run(client, "m", x, fields=by(READER)).json
        assert ran["layers"] == ran["outputs"] == {"y": [[2, 3]]}
        blind = pages.ask_run(client, "m", x, fields=by(INFERRER)).json
        assert blind["outputs"] == ran["outputs"]
        assert blind["layers"] == {}
        assert "permission 'read'" in blind["layers_error"]
        assert pages.ask_run(client, "secret", x, fields=by(INFERRER)).status == 403


def test_a_share_of_calls_lies_within_its_bin() -> None:
    empty = [0] * (len(BOUNDS_NS) + 1)
    assert percentile_ms(empty, 0.5) is None
    assert percentile_ms([], 0.5) is None
    within = list(empty)
    within[1] = 10
    assert percentile_ms(within, 0.5) == pytest.approx((BOUNDS_NS[0] + BOUNDS_NS[1]) / 2e6)
    assert percentile_ms(within, 1.0) == pytest.approx(BOUNDS_NS[1] / 1e6)
    above = list(empty)
    above[-1] = 1
    assert percentile_ms(above, 0.99) == BOUNDS_NS[-1] / 1e6


def test_the_runs_of_a_caller_of_the_class_batch_wait_for_interactive_ones(
    tmp_path: Path, transport: Transport
) -> None:
    patient = new_token("patient", ["*"], [Action.INFER, Action.READ], priority="batch")
    file = tmp_path / "tokens"
    file.write_text(patient.line)
    file.chmod(0o600)
    put(tmp_path / "models", "m", 1, 1)
    ran: list[str] = []
    go_on = threading.Event()

    def wait() -> None:
        go_on.wait()

    served = pages.served(tmp_path / "models", transport=transport, tokens=file)
    with served as (server, client), ThreadPoolExecutor() as threads:
        queue = server.catalog.find("m").queue
        try:
            for _ in range(queue._free):
                threads.submit(queue.run_errand, wait)
            eventually(lambda: queue._free == 0)
            x = {"x": [[1, 2]]}
            run = threads.submit(pages.ask_run, client, "m", x, fields=by(patient))
            eventually(lambda: len(queue._waiting[True]) == 1)
            threads.submit(queue.run_errand, lambda: ran.append(str(run.done())))
            eventually(lambda: len(queue._waiting[False]) == 1)
        finally:
            go_on.set()
        answer = run.result()
    assert answer.json["layers"] == answer.json["outputs"] == {"y": [[2, 3]]}
    assert ran == ["False"]
