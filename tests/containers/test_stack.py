"""docker-compose.yml on one machine: right answers while servers die, are replaced and reload."""

import json
import re

import grpc
import numpy as np
import yaml
from containers.load import MODEL, load
from containers.machine import ROOT, until
from containers.stack import Stack
from support.rpc import Stub
from support.wire import infer_request

from forwardpass.client import Client, ModelNotFoundError

CHANGING = """
import sys
import numpy as np
from forwardpass.models import Dense, Input, Network, publish
network = Network.define(
    Input(1, low=[0.0], high=[1.0]),
    [Dense("y", W=[[{factor}]], activation="identity")],
    name="changing",
)
publish(network, "/models", version={version})
"""

# Healthy by what it says of itself, and no use: UNAVAILABLE is its answer to all else.
USELESS = """
from concurrent.futures import ThreadPoolExecutor
import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

class Useless(grpc.GenericRpcHandler):
    def service(self, called):
        healthy = called.method == "/grpc.health.v1.Health/Check"
        return grpc.unary_unary_rpc_method_handler(self.serving if healthy else self.refusing)

    def serving(self, request, context):
        return HealthCheckResponse(status="SERVING").SerializeToString()

    def refusing(self, request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "of no use")

server = grpc.server(ThreadPoolExecutor(8), handlers=[Useless()])
server.add_insecure_port("0.0.0.0:8001")
server.start()
server.wait_for_termination()
"""

SCRAPE = """
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:9464/metrics").read().decode())
"""


def answered_by(up: Stack, container: str) -> int:
    """How many calls of the load a server has answered, asked in its own container."""
    said = up.machine.docker("exec", container, "python", "-c", SCRAPE)
    ok = re.search(rf'forwardpass_calls_total{{code="OK",model="{MODEL}",.*?}} (\S+)', said)
    return 0 if ok is None else int(float(ok[1]))


def test_every_replica_gets_its_share_of_the_calls_of_one_connection(up: Stack) -> None:
    query = f'sum by (instance) (forwardpass_calls_total{{model="{MODEL}", code="OK"}})'

    def counts() -> dict[str, float]:
        found = up.prometheus.query(query)
        return {each["metric"]["instance"]: float(each["value"][1]) for each in found}

    until(lambda: len(counts()) == 3, within_s=60, told=up.prometheus.targets)
    before = counts()
    with load(up.port, retrying=False) as calls:
        until(lambda: calls.answered >= 900, within_s=120)
    calls.assert_none_failed(at_least=900)
    until(
        lambda: sum(counts().values()) - sum(before.values()) >= calls.answered,
        within_s=60,
        told=lambda: f"{before} {counts()} {calls.answered}",
    )
    shares = [(counts()[each] - before[each]) / calls.answered for each in before]
    # In turns, so even; a health check that is late on a busy machine may shift some.
    assert min(shares) > 0.2, shares


def test_a_replica_that_crashes_under_load_costs_no_call_and_comes_back(
    up: Stack, figures: list[str]
) -> None:
    victim = up.servers()[0]
    with load(up.port, retrying=True) as calls:
        until(lambda: calls.answered >= 500, within_s=120)
        up.kill(victim)
        after = calls.answered
        until(lambda: calls.answered >= after + 1000, within_s=120)
        until(lambda: up.healthy() == 3, within_s=60)
        after = calls.answered
        until(lambda: calls.answered >= after + 500, within_s=120)
    calls.assert_none_failed(at_least=2000)
    figures.append(f"one of three replicas killed: 0 of {calls.answered} calls failed")


def test_a_replica_that_is_paused_under_load_costs_no_call_and_is_called_again_afterwards(
    up: Stack, figures: list[str]
) -> None:
    victim = up.servers()[0]

    def balanced() -> list[str]:
        """How many servers Envoy gives calls to, if Prometheus has asked it already."""
        found = up.prometheus.query('envoy_cluster_membership_healthy{envoy_cluster_name="server"}')
        return [each["value"][1] for each in found]

    with load(up.port, retrying=True, deadline_s=10) as calls:
        until(lambda: calls.answered >= 500 and balanced() == ["3"], within_s=120)
        with up.paused(victim):
            until(lambda: balanced() == ["2"], within_s=60)
            after = calls.answered
            until(lambda: calls.answered >= after + 1000, within_s=120)
        until(lambda: balanced() == ["3"], within_s=60)
        before = answered_by(up, victim)
        until(lambda: answered_by(up, victim) >= before + 100, within_s=120)
    calls.assert_none_failed(at_least=1600)
    figures.append(
        f"one of three replicas paused: 0 of {calls.answered} calls failed, "
        f"the slowest took {calls.slowest_s:.1f} s"
    )


def test_a_replica_that_fails_every_call_but_says_it_is_healthy_costs_no_call(
    up: Stack, figures: list[str]
) -> None:
    def made_again() -> float:
        name = "envoy_cluster_upstream_rq_retry_success"
        found = up.prometheus.query(f'{name}{{envoy_cluster_name="server"}}')
        return float(found[0]["value"][1]) if found else 0.0

    before = made_again()
    with load(up.port, retrying=False) as calls, up.beside_the_servers(USELESS):
        until(lambda: made_again() > before, within_s=120)
        after = calls.answered
        until(lambda: calls.answered >= after + 500, within_s=120)
    # The one that left was a server for Envoy: until its DNS forgets it, nobody is missed.
    calls.assert_none_failed(at_least=500)
    figures.append(f"a replica that fails every call: 0 of {calls.answered} calls failed")


def test_a_rolling_replace_under_load_costs_no_call(up: Stack, figures: list[str]) -> None:
    before = set(up.servers())
    with load(up.port, retrying=True) as calls:
        until(lambda: calls.answered >= 500, within_s=120)
        up.machine.run("deploy/roll.sh")
    after = set(up.servers())
    assert len(after) == 3
    assert not before & after
    calls.assert_none_failed(at_least=1000)
    figures.append(f"all three replicas replaced: 0 of {calls.answered} calls failed")


def test_a_model_that_changes_in_the_volume_is_answered_by_every_replica(up: Stack) -> None:
    x = np.array([[0.5], [3.0]], np.float32)
    with Client(f"localhost:{up.port}") as client:
        for version, factor in ((1, 2.0), (2, 4.0)):
            up.publish(CHANGING.format(version=version, factor=factor))

            def new(version: int = version) -> bool:
                try:
                    return all(
                        client.predict("changing", x).version == str(version) for _ in range(12)
                    )
                except ModelNotFoundError:
                    return False

            until(new, within_s=60)
            for _ in range(6):
                np.testing.assert_array_equal(client.predict("changing", x)["y"], factor * x)


def test_a_model_comes_into_the_volume_by_the_documented_line(up: Stack) -> None:
    up.compose(
        *("run", "--rm", "--no-deps", "-T", "--entrypoint", "forwardpass"),
        *("models", "export", "linnerud", "/models", "--name", "added"),
    )
    with Client(f"localhost:{up.port}") as client:
        until(lambda: all(client.model_ready("added") for _ in range(6)), within_s=60)


def test_prometheus_finds_every_replica_and_envoy(up: Stack) -> None:
    expected = {"forwardpass": ["up"] * 3, "envoy": ["up"]}
    until(lambda: up.prometheus.targets() == expected, within_s=90, told=up.prometheus.targets)


def panel_queries() -> list[str]:
    file = ROOT / "deploy" / "grafana" / "dashboards" / "forwardpass.json"
    dashboard = json.loads(file.read_text())
    return [
        target["expr"].replace("$__rate_interval", "30s").replace("$model", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def test_every_panel_and_alert_finds_data_under_load(up: Stack) -> None:
    up.publish(CHANGING.format(version=3, factor=8.0))
    rules = up.prometheus.rules()
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    threshold = re.compile(r"(.*)\s(?:[<>]|==)\s+[\d.e+]+", re.DOTALL)
    alerts = [threshold.fullmatch(rule["query"]) for rule in rules]
    assert len(rules) >= 10
    assert all(alerts), "an alert without a threshold"
    wrong = infer_request(MODEL, {"x": np.ones((1, 2), np.float32)})
    # This stack has no TLS, and one process for each replica.
    queries = panel_queries() + [
        alert[1] for alert in alerts if alert and not re.search("certificate|restarts", alert[1])
    ]
    with (
        load(up.port, retrying=True) as calls,
        Client(f"localhost:{up.port}") as client,
        Stub(up.port) as stub,
    ):
        missing = list(queries)

        def all_found() -> bool:
            client.predict("changing", [[0.5], [3.0], [float("nan")]])
            # A call that our client would not even send.
            assert stub.outcome("ModelInfer", wrong) is grpc.StatusCode.INVALID_ARGUMENT
            missing[:] = [query for query in missing if not up.prometheus.query(query)]
            return not missing

        until(all_found, within_s=180, told=lambda: "\n".join(missing))
    calls.assert_none_failed(at_least=1)


def test_every_alert_fires_for_its_cause_and_for_nothing_else(up: Stack) -> None:
    folder = ROOT / "tests" / "containers" / "alerts"
    cases = yaml.safe_load((folder / "alerts.yaml").read_text())["tests"]
    expected = [rule for case in cases for rule in case["alert_rule_test"]]
    fires = {rule["alertname"] for rule in expected if rule["exp_alerts"]}
    silent = {rule["alertname"] for rule in expected if not rule["exp_alerts"]}
    assert fires == silent == {rule["name"] for rule in up.prometheus.rules()}
    up.machine.docker(
        "run", "--rm", "-v", f"{folder}:/tests:ro", "-v", f"{ROOT}/deploy/prometheus:/rules:ro",
        "--entrypoint", "/bin/promtool", up.machine.settings["PROMETHEUS_IMAGE"],
        "test", "rules", "/tests/alerts.yaml",
    )  # fmt: skip
