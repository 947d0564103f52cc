"""What a server says of all that it serves, from servers of both kinds: with and without."""

import pytest
from client.conftest import OipServer
from support.clients import AnyClient

from forwardpass.client import ModelState, ModelStatistics, UnimplementedError
from forwardpass.proto import inference_pb2 as pb


def test_the_index_gives_every_version_with_its_state(client: AnyClient, server: OipServer) -> None:
    entries = [
        {"name": "net", "version": "1", "state": "READY"},
        {"name": "net", "version": "2", "state": "UNAVAILABLE", "reason": "broken"},
        {"name": "mlserver", "state": "State.READY"},
    ]
    reply = pb.RepositoryIndexResponse()
    for entry in entries:
        reply.models.add(**entry)
    server.answers["RepositoryIndex"] = lambda *_: reply.SerializeToString()
    assert client.index() == (
        ModelState(name="net", version="1", state="READY", reason=""),
        ModelState(name="net", version="2", state="UNAVAILABLE", reason="broken"),
        ModelState(name="mlserver", version="", state="READY", reason=""),
    )


def test_statistics_are_the_counters_of_the_message(client: AnyClient, server: OipServer) -> None:
    def answer(request, _):
        asked = pb.ModelStatisticsRequest.FromString(request)
        reply = pb.ModelStatisticsResponse()
        one = reply.model_stats.add(name=asked.name, version=asked.version, last_inference=9)
        one.inference_count, one.execution_count = 70, 30
        for index, part in enumerate(
            ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        ):
            duration = getattr(one.inference_stats, part)
            duration.count, duration.ns = index + 1, 10**index
        return reply.SerializeToString()

    server.answers["ModelStatistics"] = answer
    (got,) = client.statistics("net", "3")
    assert got == ModelStatistics(
        name="net",
        version="3",
        answered=1,
        failed=2,
        rows=70,
        runs=30,
        total_ns=1,
        queue_ns=100,
        compute_ns=111_000,
        last_ms=9,
    )


@pytest.mark.parametrize("ask", ["index", "statistics"])
def test_a_server_without_them_says_so(client: AnyClient, ask) -> None:
    with pytest.raises(UnimplementedError):
        getattr(client, ask)()
