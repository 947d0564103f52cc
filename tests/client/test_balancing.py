"""Several addresses behind one name, with real servers of ours."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from client.conftest import OipServer
from support import onnx_files
from support.clients import AnyClient
from support.living import serving

from forwardpass.client import ServerUnavailableError
from forwardpass.proto import inference_pb2 as pb

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def replicas(tmp_path):
    onnx_files.save(onnx_files.linear(), tmp_path / "linear" / "1" / "model.onnx")
    with ExitStack() as stack:
        yield [stack.enter_context(serving(tmp_path)) for _ in range(2)]


def target(replicas):
    return "ipv4:" + ",".join(f"127.0.0.1:{replica.server.port}" for replica in replicas)


def calls(replica):
    reply = replica.stub.call("ModelStatistics", pb.ModelStatisticsRequest(), reply_type=STATISTICS)
    return reply.model_stats[0].inference_stats.success.count


STATISTICS = pb.ModelStatisticsResponse


def call(client, times):
    for _ in range(times):
        assert client.predict("linear", [1, 2, 3])["y"].tolist() == [14.5, 31.5]


def until_both_answer(client, replicas):
    """Connections come up one after the other."""
    before = [calls(replica) for replica in replicas]
    for _ in range(500):
        call(client, 1)
        if all(calls(replica) > count for replica, count in zip(replicas, before, strict=True)):
            return
    raise AssertionError("one of the replicas was never called")


@pytest.mark.parametrize("health_checks", [False, True])
def test_calls_take_turns_between_addresses(
    replicas, connect: Callable[..., AnyClient], health_checks
) -> None:
    with connect(target(replicas), health_checks=health_checks) as client:
        until_both_answer(client, replicas)
        before = [calls(replica) for replica in replicas]
        call(client, 40)
        shares = [calls(each) - count for each, count in zip(replicas, before, strict=True)]
    assert shares == [20, 20]


def test_health_checks_leave_out_a_server_that_drains_while_it_still_answers(
    replicas, connect: Callable[..., AnyClient]
) -> None:
    first, second = replicas
    with connect(target(replicas), health_checks=True) as client:
        until_both_answer(client, replicas)
        first.server.drain()
        quiet = 0
        while quiet < 20:
            before = calls(first)
            call(client, 1)
            quiet = quiet + 1 if calls(first) == before else 0
        before = calls(first), calls(second)
        call(client, 40)
        assert (calls(first) - before[0], calls(second) - before[1]) == (0, 40)


def test_without_health_checks_a_server_that_drains_is_called_on(
    replicas, connect: Callable[..., AnyClient]
) -> None:
    first, _ = replicas
    with connect(target(replicas)) as client:
        until_both_answer(client, replicas)
        first.server.drain()
        before = calls(first)
        call(client, 40)
        assert calls(first) - before == 20


def test_where_all_say_that_they_do_not_serve_calls_are_unavailable(
    replicas, connect: Callable[..., AnyClient]
) -> None:
    with connect(target(replicas), health_checks=True, retry=None) as client:
        until_both_answer(client, replicas)
        for replica in replicas:
            replica.server.drain()
        with pytest.raises(ServerUnavailableError):
            call(client, 10_000)


def test_a_server_without_health_checks_of_its_own_is_called(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    with connect(server.target, health_checks=True) as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6


def test_an_address_where_nothing_answers_costs_no_call(
    replicas, connect: Callable[..., AnyClient]
) -> None:
    first, second = replicas
    with connect(target(replicas)) as client:
        until_both_answer(client, replicas)
        first.server.stop()
        before = calls(second)
        call(client, 40)
        assert calls(second) - before == 40


def test_a_name_of_this_machine_is_one_server_though_it_has_two_addresses(
    tmp_path: Path, connect: Callable[..., AnyClient]
) -> None:
    # As where a server listens on ::1, and another program's on the same port of 127.0.0.1.
    onnx_files.save(onnx_files.linear(), tmp_path / "linear" / "1" / "model.onnx")
    with serving(tmp_path) as served:
        with connect(f"localhost:{served.server.port}", retry=None) as client:
            call(client, 20)
        assert calls(served) == 20
